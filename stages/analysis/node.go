package analysis

import (
	"encoding/json"
	"maps"
	"slices"
)

// Node is one object of the syntax tree that json_serialize_sql gives. A key
// that is absent, or of another type than asked for, reads as the zero value.
type Node map[string]any

// Str is the string under key.
func (n Node) Str(key string) string { s, _ := n[key].(string); return s }

// Flag is the boolean under key.
func (n Node) Flag(key string) bool { b, _ := n[key].(bool); return b }

// Has reports whether something stands under key.
func (n Node) Has(key string) bool { return n[key] != nil }

// Child is the object under key.
func (n Node) Child(key string) Node { return asNode(n[key]) }

// List is the objects of the list under key.
func (n Node) List(key string) []Node { return asNodes(n[key]) }

func asNode(v any) Node {
	switch v := v.(type) {
	case map[string]any:
		return v
	case Node:
		return v
	}
	return nil
}

func asNodes(v any) (all []Node) {
	items, _ := v.([]any)
	for _, i := range items {
		if n := asNode(i); n != nil {
			all = append(all, n)
		}
	}
	return all
}

// Offset is where the node stands in the SQL, in bytes, or -1.
func (n Node) Offset() int {
	num, ok := n["query_location"].(json.Number)
	if !ok {
		return -1
	}
	v, err := num.Int64()
	if err != nil { // "nowhere" is the largest unsigned number
		return -1
	}
	return int(v)
}

// Walk calls visit for every object below v, v included, until it returns false
// for one, whose insides are then left out.
func Walk(v any, visit func(Node) bool) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			Walk(item, visit)
		}
	case Node:
		Walk(map[string]any(v), visit)
	case map[string]any:
		if !visit(v) {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(v)) { // the same way each time
			Walk(v[key], visit)
		}
	}
}

// Clone copies a tree.
func Clone(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = Clone(item)
		}
		return out
	case Node:
		return Node(Clone(map[string]any(v)).(map[string]any))
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, child := range v {
			out[k] = Clone(child)
		}
		return out
	}
	return v
}

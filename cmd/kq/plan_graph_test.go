package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// Names may hold anything: quotes, newlines, brackets, words that the formats
// reserve, other scripts.
func TestDrawingEscapes(t *testing.T) {
	evil := "a \"b\" \\n\n<br/> &amp; #35; end subgraph %% ]) -->|x| `*_日本 😀\x1b[0m"
	d := &drawing{
		title:  evil,
		boxes:  []box{{"n0", "", sourceShape, []string{evil, "end"}}, {"n1", evil, taskShape, []string{evil}}, {"n2", "", sinkShape, []string{""}}},
		arrows: []arrow{{"n0", "n1", []string{evil, evil}}, {"n1", "n2", []string{"graph"}}},
	}
	var dot, mermaid bytes.Buffer
	d.dot(&dot)
	d.mermaid(&mermaid)
	const inDot = `a \"b\" \\n <br/> &amp;amp; #35; end subgraph %% ]) -->|x| ` + "`*_日本 😀·[0m"
	if strings.Count(dot.String(), inDot) != 6 {
		t.Errorf("dot:\n%s", &dot)
	}
	const inMermaid = "a #34;b#34; #92;n #60;br/#62; #38;amp#59; #35;35#59; end subgraph #37;#37; #93;#41; --#62;#124;x#124; #96;#42;#95;日本 😀·#91;0m"
	if strings.Count(mermaid.String(), inMermaid) != 6 {
		t.Errorf("mermaid:\n%s", &mermaid)
	}
	if path, err := exec.LookPath("dot"); err == nil {
		c := exec.Command(path, "-Tsvg")
		c.Stdin = &dot
		if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("&#45;&#45;&gt;|x|")) {
			t.Errorf("graphviz: %v\n%s", err, out)
		}
	}
}

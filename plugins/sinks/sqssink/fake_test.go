package sqssink

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// fakeSQS is a queue in this process that fails as its rules say, and looks at
// what it gets. It knows no deduplication.
type fakeSQS struct {
	mu       sync.Mutex
	rng      *rand.Rand
	arrived  map[string]int   // by deduplication id or body
	groups   map[string][]int // rows by group as they arrived
	busy     map[string]int   // requests that have a message of the group
	inFlight int
	most     int
	shared   bool   // two requests had the same group
	chance   [3]int // percent: a message fails, a request is throttled, a request fails
}

type fakeEntry struct {
	Id, MessageBody, MessageGroupId, MessageDeduplicationId string
}

func (f *fakeSQS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("X-Amz-Target") {
	case "AmazonSQS.GetQueueUrl":
		fmt.Fprint(w, `{"QueueUrl": "http://fake/0/q"}`)
	case "AmazonSQS.GetQueueAttributes":
		fmt.Fprint(w, `{"Attributes": {"MaximumMessageSize": "2000"}}`)
	case "AmazonSQS.SendMessageBatch":
		var in struct{ Entries []fakeEntry }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		f.send(w, in.Entries)
	default:
		http.Error(w, "?", 400)
	}
}

func (f *fakeSQS) send(w http.ResponseWriter, entries []fakeEntry) {
	f.begin(entries, 1)
	defer f.begin(entries, -1)
	f.mu.Lock()
	dice := func(percent int) bool { return f.rng.IntN(100) < percent }
	throttle, fail, wait := dice(f.chance[1]), dice(f.chance[2]), f.rng.IntN(2000)
	f.mu.Unlock()
	time.Sleep(time.Duration(wait) * time.Microsecond)
	switch {
	case throttle:
		w.WriteHeader(400)
		fmt.Fprint(w, `{"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slower"}`)
		return
	case fail:
		w.WriteHeader(503)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := struct{ Successful, Failed []map[string]any }{}
	for _, e := range entries {
		if dice(f.chance[0]) {
			out.Failed = append(out.Failed, map[string]any{"Id": e.Id, "Code": "InternalError", "SenderFault": false})
			continue
		}
		var body struct{ N int }
		_ = json.Unmarshal([]byte(e.MessageBody), &body)
		f.arrived[e.MessageBody]++
		f.groups[e.MessageGroupId] = append(f.groups[e.MessageGroupId], body.N)
		out.Successful = append(out.Successful, map[string]any{"Id": e.Id, "MessageId": "m"})
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (f *fakeSQS) begin(entries []fakeEntry, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight += by
	f.most = max(f.most, f.inFlight)
	seen := map[string]bool{}
	for _, e := range entries {
		if !seen[e.MessageGroupId] {
			seen[e.MessageGroupId] = true
			f.busy[e.MessageGroupId] += by
			f.shared = f.shared || f.busy[e.MessageGroupId] > 1
		}
	}
}

func newFake(t testing.TB, seed uint64, chance [3]int) (*fakeSQS, string) {
	f := &fakeSQS{rng: rand.New(rand.NewPCG(seed, 1)), arrived: map[string]int{}, groups: map[string][]int{}, busy: map[string]int{}, chance: chance}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

func openFake(t testing.TB, url string, g sinks.Gate, pairs ...any) sinks.Publisher {
	t.Helper()
	set := with(settings("queue", "q", "endpoint", url, "access_key", "a", "secret_key", "s"), pairs...)
	p, err := Sink{}.Open(&pipeline.SinkPlan{Settings: set}, sinks.Options{Gate: g, Warn: func(m string) { t.Log(m) }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPartialFailures: messages that fail alone are sent again alone; those that
// have arrived aren't. With ordering: strict the order in a group holds whatever
// fails, and no two requests have messages of one group.
func TestPartialFailures(t *testing.T) {
	t.Parallel()
	ended := map[backpressure.Result]int{}
	for seed := range uint64(6) {
		fifo, groups, n := seed%3 > 0, []int{1, 6, 60}[seed%3], 120
		f, url := newFake(t, seed, [3]int{15, 4, 4})
		pairs := []any{"concurrency", int64(1 + 3*seed)}
		if fifo {
			pairs = append(pairs, "queue", "q.fifo", "group", "g")
		}
		g := newGate()
		p := openFake(t, url, g, pairs...)
		r, err := p.Publish(t.Context(), part("kq/r/out/0", numbered(n, groups), "v", "g"))
		if !fifo {
			groups = 1
		}
		if err != nil || r.Rows != int64(n) || len(f.arrived) != n || len(f.groups) != groups {
			t.Fatalf("%+v, %v, %d of %d arrived, %d groups", r, err, len(f.arrived), n, len(f.groups))
		}
		for body, times := range f.arrived {
			if times != 1 {
				t.Errorf("%s arrived %d times", body, times)
			}
		}
		if f.most > 1+3*int(seed) {
			t.Errorf("%d requests at once", f.most)
		}
		if r.Resent == 0 {
			t.Error("nothing was sent again")
		}
		for result, times := range g.ended {
			ended[result] += times
		}
		for id, rows := range f.groups {
			if fifo && !slices.IsSorted(rows) {
				t.Errorf("group %s: %v", id, rows)
			}
		}
		if fifo && f.shared {
			t.Error("two requests had messages of one group")
		}
	}
	if ended[backpressure.Throttled] == 0 || ended[backpressure.Failed] == 0 || ended[backpressure.Succeeded] == 0 {
		t.Errorf("the gate saw %v", ended)
	}
}

// TestBatched: with ordering: batched fewer requests do, and requests of a group
// still follow each other.
func TestBatched(t *testing.T) {
	f, url := newFake(t, 1, [3]int{})
	g := newGate()
	p := openFake(t, url, g, "queue", "q.fifo", "group", "g", "ordering", batched)
	if _, err := p.Publish(t.Context(), part("kq/r/out/0", numbered(100, 2), "v", "g")); err != nil {
		t.Fatal(err)
	}
	if n := g.ended[backpressure.Succeeded]; n > 12 || f.shared || !slices.IsSorted(f.groups["g0"]) || !slices.IsSorted(f.groups["g1"]) || len(f.arrived) != 100 {
		t.Errorf("%d requests, shared %v, %v", n, f.shared, f.groups)
	}
}

// TestQueuesLimit: what the queue itself is set to is kept.
func TestQueuesLimit(t *testing.T) {
	f, url := newFake(t, 1, [3]int{})
	p := openFake(t, url, newGate(), "record_id", "")
	rows := []row{{body: string(make([]byte, 0))}, {body: fmt.Sprintf("%02001d", 1)}, {body: fmt.Sprintf("%02000d", 1)}}
	_, err := p.Publish(t.Context(), part("kq/r/out/3", rows, "v"))
	if !pipeline.IsPermanent(err) || len(f.arrived) > 1 {
		t.Fatalf("%v, %d arrived", err, len(f.arrived))
	}
	want := "queue q at " + url + " doesn't take some rows for what they contain:\n" +
		"  row kq/r/out/3/0: the message is empty or NULL; a message of SQS has at least one character\n" +
		"  row kq/r/out/3/1: the message has 2001 bytes with its attributes, and the queue takes 2000; send fewer columns:, or a reference to what is large"
	if err.Error() != want {
		t.Errorf("%s\nwant\n%s", err, want)
	}
	if r, err := p.Publish(t.Context(), part("kq/r/out/4", rows[2:], "v")); err != nil || r.Bytes != 2000 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestTenRefusals: ten rows are named, the rest of the part isn't read.
func TestTenRefusals(t *testing.T) {
	_, url := newFake(t, 1, [3]int{})
	rows := numbered(5000, 1)
	for i := 700; i < len(rows); i += 100 {
		rows[i].body = "\x02"
	}
	_, err := openFake(t, url, newGate()).Publish(t.Context(), part("p", rows, "v"))
	if !pipeline.IsPermanent(err) {
		t.Fatal(err)
	}
	for i := 700; i < 1700; i += 100 {
		if !contains(err.Error(), fmt.Sprintf("row p/%d: character 1 of the message is U+0002", i)) {
			t.Errorf("row %d is not named: %v", i, err)
		}
	}
	if contains(err.Error(), "p/1700:") {
		t.Error(err)
	}
}

// TestStalled: when nothing gets through, the attempt fails, and may be repeated.
func TestStalled(t *testing.T) {
	for _, chance := range [][3]int{{100, 0, 0}, {0, 100, 0}, {0, 0, 100}} {
		_, url := newFake(t, 1, chance)
		g := newGate()
		_, err := openFake(t, url, g, "delivery_timeout", "200ms").Publish(t.Context(), part("p", numbered(50, 1), "v"))
		if err == nil || pipeline.IsPermanent(err) || !contains(err.Error(), "nothing was taken for 200ms") {
			t.Errorf("%v: %v", chance, err)
		}
		if s := g.Snapshot(); s.InFlight != 0 || s.Requests != 0 {
			t.Errorf("%d bytes are still in flight", s.InFlight)
		}
	}
}

package partwise

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kinequet/kq/internal/services"
)

// childVar makes this test binary a process that publishes parts, to be killed.
const childVar = "KQ_PARTWISE_CHILD"

// killsVar is how many times TestKills kills for each delivery.
const killsVar = "KQ_KAFKA_KILLS"

// errand is what a child is to do.
type errand struct {
	Addrs    []string
	Topic    string
	Delivery Delivery
	Parts    int
	Rows     int
	Ledger   string // one line for each part that is done
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childVar); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child publishes every part that the ledger lacks, as a worker would.
func child(text string) error {
	var e errand
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	ledger, err := os.OpenFile(e.Ledger, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for lines := bufio.NewScanner(ledger); lines.Scan(); {
		done[strings.Fields(lines.Text())[0]] = true
	}
	p, err := Open(Options{
		Brokers: e.Addrs, Topic: e.Topic, Columns: keyed, Delivery: e.Delivery, BatchBytes: 4000,
		RequestTimeout: 10 * time.Second, TransactionTimeout: time.Minute,
	})
	if err != nil {
		return err
	}
	defer p.Close()
	for i := range e.Parts {
		id := fmt.Sprintf("%s-%d", e.Topic, i)
		if done[id] {
			continue
		}
		res, err := publishUntil(p, partOf(id, e.Rows, 2))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(ledger, id, res.Committed); err != nil {
			return err
		}
	}
	return nil
}

// publishUntil tries again as the class of the error says.
func publishUntil(p *Producer, part Part) (res Result, err error) {
	for range 20 {
		res, err = p.Publish(context.Background(), part)
		if err == nil || ClassOf(err) != RetryPart && ClassOf(err) != CommitUnknown {
			break
		}
	}
	return res, err
}

// TestKills kills publishing processes at random instants. One in five is not
// killed but stopped, replaced, and let go on: a zombie, which is killed later.
func TestKills(t *testing.T) {
	broker := services.Kafka(t)
	kills := 15
	if text := os.Getenv(killsVar); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		t.Run(fmt.Sprint(d), func(t *testing.T) { killing(t, broker.Addr, d, kills) })
	}
}

func killing(t *testing.T, addr string, d Delivery, kills int) {
	runtime.LockOSThread() // Pdeathsig is of the thread that starts a child
	const rows = 3000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var total struct{ runs, kills, zombies, parts, tokens int }
	for total.kills+total.zombies < kills {
		e := errand{Addrs: []string{addr}, Topic: topicAt(t, addr, 4), Delivery: d, Parts: 25, Rows: rows, Ledger: filepath.Join(t.TempDir(), "ledger")}
		var zombies []*exec.Cmd
		for finished := false; !finished; {
			c := start(t, e)
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			// A process lives 20 ms to 0.9 s, unless enough were killed.
			var alarm <-chan time.Time
			if total.kills+total.zombies < kills {
				alarm = time.After(time.Duration(20+random.IntN(880)) * time.Millisecond)
			}
			select {
			case err := <-ended:
				// A zombie may fence a run once, when it wakes and begins its next part.
				finished = err == nil
				if err != nil && len(zombies) == 0 {
					t.Fatalf("a run that nobody disturbed: %v\n%s", err, c.Stderr)
				}
			case <-alarm:
				if random.IntN(5) == 0 {
					total.zombies++
					_ = c.Process.Signal(syscall.SIGSTOP)
					zombies = append(zombies, c)
					time.AfterFunc(time.Duration(random.IntN(300))*time.Millisecond, func() { _ = c.Process.Signal(syscall.SIGCONT) })
				} else {
					total.kills++
					_ = c.Process.Kill()
					<-ended
				}
			}
			for _, z := range zombies {
				if finished {
					_ = z.Process.Kill()
				}
			}
		}
		total.runs++
		rowsOf := map[string]int{}
		for i := range e.Parts {
			rowsOf[fmt.Sprintf("%s-%d", e.Topic, i)] = rows
		}
		text, err := os.ReadFile(e.Ledger)
		if err != nil {
			t.Fatal(err)
		}
		total.parts += e.Parts
		total.tokens += strings.Count(string(text), "true")
		verifyAll(t, e.Addrs, e.Topic, rowsOf, d == EffectivelyOnce)
		if t.Failed() {
			return
		}
	}
	t.Logf("delivery %d: %d runs, %d SIGKILLs, %d zombies, %d parts, %d found by their token, %d rows: none lost or, effectively-once, twice",
		d, total.runs, total.kills, total.zombies, total.parts, total.tokens, total.parts*rows)
}

func start(t *testing.T, e errand) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childVar+"="+string(text))
	c.Stderr = &strings.Builder{}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

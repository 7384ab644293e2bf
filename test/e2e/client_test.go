package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// reply is one answer of the driver.
type reply struct {
	ID        int             `json:"id"`
	Value     json.RawMessage `json:"value"`
	Worker    string          `json:"worker"`
	Token     string          `json:"token"`
	By        string          `json:"by"`
	Error     string          `json:"error"`
	Bases     []string        `json:"bases"`
	Message   string          `json:"message"`
	Reason    string          `json:"reason"`
	Execution string          `json:"execution"`
	Cause     string          `json:"cause"`
	Seconds   float64         `json:"seconds"`
}

// driver is the Python client in a pod, driven over kubectl exec. It may be used from any goroutine.
type driver struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	dead  chan struct{}

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
}

func startDriver(pod, namespace string) (*driver, error) {
	cmd := exec.Command(kubectlPath(), "exec", "-i", "-n", namespace, pod, "--", "python3", "/driver/driver.py")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = prefixWriter{}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &driver{cmd: cmd, stdin: stdin, dead: make(chan struct{}), next: 1, waiting: map[int]chan reply{}}
	hello := make(chan reply, 1)
	d.waiting[0] = hello
	go d.read(stdout)
	select {
	case <-hello:
		return d, nil
	case <-d.dead:
		return nil, fmt.Errorf("the driver ended before it said hello")
	case <-time.After(60 * time.Second):
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("the driver said nothing for 60 s")
	}
}

func (d *driver) read(stdout io.Reader) {
	defer close(d.dead)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(make([]byte, 0, 1<<20), 16<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		d.mu.Lock()
		ch := d.waiting[r.ID]
		delete(d.waiting, r.ID)
		d.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
}

func (d *driver) stop() {
	_ = d.stdin.Close()
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// begin sends a command and returns where its answer will come.
func (d *driver) begin(command map[string]any) (<-chan reply, error) {
	d.mu.Lock()
	id := d.next
	d.next++
	ch := make(chan reply, 1)
	d.waiting[id] = ch
	d.mu.Unlock()
	command["id"] = id
	line, err := json.Marshal(command)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err = d.stdin.Write(append(line, '\n'))
	return ch, err
}

// do sends a command and waits for its answer.
func (d *driver) do(t *testing.T, command map[string]any) reply {
	t.Helper()
	ch, err := d.begin(command)
	if err != nil {
		t.Fatalf("driver: %v", err)
	}
	return d.await(t, ch, 90*time.Second)
}

func (d *driver) await(t *testing.T, ch <-chan reply, limit time.Duration) reply {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-d.dead:
		t.Fatal("the driver ended")
	case <-time.After(limit):
		t.Fatalf("no answer of the driver within %s", limit)
	}
	return reply{}
}

// ledger knows which processes answered in each life of a session, over all stories, and where a caller's session went on without a word.
type ledger struct {
	mu     sync.Mutex
	owners map[life]map[string]bool
	last   map[string]session.Token // by what the driver knows a session as
	moves  int
}

// life is one (session, epoch) of a pool.
type life struct {
	pool, session string
	epoch         uint64
}

func newLedger() *ledger {
	return &ledger{owners: map[life]map[string]bool{}, last: map[string]session.Token{}}
}

var answers = newLedger()

// answered enters that a process answered a caller's call in the life that the token names; a caller without a key has no past.
func (l *ledger) answered(pool, key, token, by string) error {
	t, err := session.ParseToken(token)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	of := life{pool, t.Name, t.Epoch}
	if l.owners[of] == nil {
		l.owners[of] = map[string]bool{}
	}
	l.owners[of][fmt.Sprintf("%s of pod %s", by, t.Pod)] = true
	if key == "" {
		return nil
	}
	if before, ok := l.last[key]; ok && before != t {
		l.moves++
	}
	l.last[key] = t
	return nil
}

// anew says that a caller knows that its session begins anew.
func (l *ledger) anew(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.last, key)
}

// double names the lives that had two owners.
func (l *ledger) double() []error {
	var double []error
	for of, by := range l.owners {
		if len(by) > 1 {
			double = append(double, fmt.Errorf("session %s of pool %s, epoch %d, was answered by %v", of.session, of.pool, of.epoch, slices.Sorted(maps.Keys(by))))
		}
	}
	return double
}

// report leaves the figures of O4.
func (l *ledger) report() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	const command = "make test-e2e"
	double, lives := l.double(), len(l.owners)
	err := fixture.AppendFigures([]fixture.Figure{
		{ID: "O4", Figure: "(session, epoch) double owners", Value: float64(len(double)), Unit: "lives", Bound: "<=0", OK: len(double) == 0, Void: lives == 0, Runs: lives, Command: command},
		{ID: "O4", Figure: "silent moves", Value: float64(l.moves), Unit: "sessions", Bound: "<=0", OK: l.moves == 0, Void: lives == 0, Runs: lives, Command: command},
	})
	if l.moves > 0 {
		err = errors.Join(err, fmt.Errorf("%d sessions went on elsewhere, and nobody told their callers", l.moves))
	}
	return errors.Join(append(double, err)...)
}

// names are the sessions of a pool in which somebody was answered.
func (l *ledger) names(pool string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]bool{}
	for of := range l.owners {
		if of.pool == pool {
			all[of.session] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// caller speaks to one pool, in a session when named.
type caller struct {
	t       *testing.T
	d       *driver
	pool    string
	address string
	session string
}

// key is what the driver knows the session as.
func (c caller) key() string { return c.address + "/" + c.session }

// enter enters an answer that says who gave it.
func (c caller) enter(r reply) {
	c.t.Helper()
	if r.By == "" || c.session == "" {
		return
	}
	if err := answers.answered(c.pool, c.key(), r.Token, r.By); err != nil {
		c.t.Errorf("session %q: token %q: %v", c.session, r.Token, err)
	}
}

func (c caller) in(session string) caller {
	c.session = session
	return c
}

func (c caller) command(op string) map[string]any {
	m := map[string]any{"op": op, "address": c.address}
	if c.session != "" {
		m["session"] = c.session
	}
	return m
}

// try calls once more, for a while, when the Service led nowhere yet: a new pod is Ready a moment before the node's proxy sends calls to it.
func (c caller) try(tool string, args map[string]any) reply {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		m := c.command("call")
		m["tool"] = tool
		if args != nil {
			m["args"] = args
		}
		r := c.d.do(c.t, m)
		c.enter(r)
		if r.Error != "TransportError" || r.Execution != "NOT_STARTED" || time.Now().After(deadline) {
			return r
		}
		<-time.After(100 * time.Millisecond)
	}
}

func (c caller) begin(tool string, args map[string]any) <-chan reply {
	c.t.Helper()
	m := c.command("call")
	m["tool"], m["args"] = tool, args
	ch, err := c.d.begin(m)
	if err != nil {
		c.t.Fatal(err)
	}
	return ch
}

// call fails the story when the call fails.
func (c caller) call(tool string, args map[string]any) reply {
	c.t.Helper()
	r := c.try(tool, args)
	if r.Error != "" {
		c.t.Fatalf("%s%v in session %q: %s %s: %s", tool, args, c.session, r.Error, r.Reason, r.Message)
	}
	return r
}

// count calls the session's counter and checks the answer.
func (c caller) count(want int) reply {
	c.t.Helper()
	r := c.call("count", nil)
	if got := number(c.t, r); got != want {
		c.t.Fatalf("session %q counted %d, want %d", c.session, got, want)
	}
	return r
}

func (c caller) do(op string) {
	c.t.Helper()
	answers.anew(c.key())
	if r := c.d.do(c.t, c.command(op)); r.Error != "" {
		c.t.Fatalf("%s %q: %s: %s", op, c.session, r.Error, r.Message)
	}
}

func number(t *testing.T, r reply) int {
	t.Helper()
	var n int
	if err := json.Unmarshal(r.Value, &n); err != nil {
		t.Fatalf("answer %s is no number: %v", r.Value, err)
	}
	return n
}

// The ledger finds what the stories must never show: two processes in one life, and a life that changes while its caller was told nothing.
func TestLedger(t *testing.T) {
	first := session.Token{Pod: "p1", Name: "s", Epoch: 7}
	again := session.Token{Pod: "p2", Name: "s", Epoch: 8}
	for _, one := range []struct {
		name          string
		enter         func(l *ledger) error
		double, moves int
	}{
		{"another process, same life", func(l *ledger) error { return l.answered("pool", "", first.String(), "b") }, 1, 0},
		{"another life, not told", func(l *ledger) error { return l.answered("pool", "k", again.String(), "b") }, 0, 1},
		{"another life, told", func(l *ledger) error { l.anew("k"); return l.answered("pool", "k", again.String(), "b") }, 0, 0},
		{"another caller's life", func(l *ledger) error { return l.answered("pool", "other", again.String(), "b") }, 0, 0},
	} {
		l := newLedger()
		if err := errors.Join(l.answered("pool", "k", first.String(), "a"), l.answered("pool", "k", first.String(), "a"), one.enter(l)); err != nil {
			t.Fatal(err)
		}
		if len(l.double()) != one.double || l.moves != one.moves {
			t.Errorf("%s: %d double owners and %d silent moves, want %d and %d", one.name, len(l.double()), l.moves, one.double, one.moves)
		}
	}
}

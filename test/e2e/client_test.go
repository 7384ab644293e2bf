package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// reply is one answer of the driver.
type reply struct {
	ID        int             `json:"id"`
	Value     json.RawMessage `json:"value"`
	Worker    string          `json:"worker"`
	Token     string          `json:"token"`
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

// caller speaks to one pool, in a session when named.
type caller struct {
	t       *testing.T
	d       *driver
	address string
	session string
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

package scale

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// Environment of the process that is the operator.
const (
	envKubeconfig = "SCALE_OPERATOR_KUBECONFIG"
	envNamespace  = "SCALE_OPERATOR_NAMESPACE"
)

// withHeap asks for what lives on the heap, too.
const withHeap = "heap"

// usage is what the operator has used since it started.
type usage struct {
	Writes  int64         // requests that change something, Events apart
	Events  int64         // requests that tell of an Event
	Reads   int64         // lists and gets; watches apart
	CPU     time.Duration // user and system
	Heap    uint64        // bytes that live after a garbage collection; 0 unless asked for
	Refused int64         // answers 409 and 429
}

func (u usage) minus(before usage) usage {
	return usage{
		Writes: u.Writes - before.Writes, Events: u.Events - before.Events, Reads: u.Reads - before.Reads,
		CPU: u.CPU - before.CPU, Refused: u.Refused - before.Refused,
	}
}

// counter counts the requests of one operator.
type counter struct{ writes, events, reads, refused atomic.Int64 }

func (c *counter) wrap(next http.RoundTripper) http.RoundTripper { return &counted{c, next} }

type counted struct {
	*counter
	next http.RoundTripper
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
	case r.Method == http.MethodGet:
		c.reads.Add(1)
	case strings.Contains(r.URL.Path, "/events"):
		c.events.Add(1)
	default:
		c.writes.Add(1)
	}
	answer, err := c.next.RoundTrip(r)
	if err == nil && (answer.StatusCode == http.StatusConflict || answer.StatusCode == http.StatusTooManyRequests) {
		c.refused.Add(1)
	}
	return answer, err
}

// usage of the process; what lives on the heap only when it is asked for, since that costs a garbage collection.
func (c *counter) usage(heap bool) (usage, error) {
	var memory runtime.MemStats
	if heap {
		runtime.GC()
		runtime.ReadMemStats(&memory)
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return usage{}, err
	}
	return usage{
		Writes: c.writes.Load(), Events: c.events.Load(), Reads: c.reads.Load(), Refused: c.refused.Load(),
		CPU:  time.Duration(used.Utime.Nano() + used.Stime.Nano()),
		Heap: memory.HeapAlloc,
	}, nil
}

// runOperator is the main function of the operator's process: it answers each line of its input with what it has used, and ends with the input.
func runOperator(kubeconfig, namespace string, in io.Reader, out io.Writer) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	c := &counter{}
	operator, err := fixture.StartOperator(config, fixture.OperatorOptions{Namespace: namespace, WrapTransport: c.wrap})
	if err != nil {
		return err
	}
	answers := json.NewEncoder(out)
	for lines := bufio.NewScanner(in); lines.Scan() && err == nil; {
		var u usage
		if u, err = c.usage(lines.Text() == withHeap); err == nil {
			err = answers.Encode(u)
		}
	}
	return errors.Join(err, operator.Stop())
}

// operator is that process, seen from the test.
type operator struct {
	process *exec.Cmd
	ask     io.WriteCloser
	answers *json.Decoder
}

func startOperator(t *testing.T, kubeconfig, namespace string) *operator {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{process: exec.Command(self)}
	o.process.Env = append(os.Environ(), envKubeconfig+"="+kubeconfig, envNamespace+"="+namespace)
	o.process.Stderr = os.Stderr
	out, err := o.process.StdoutPipe()
	if err == nil {
		o.ask, err = o.process.StdinPipe()
	}
	if err == nil {
		err = o.process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	o.answers = json.NewDecoder(out)
	t.Cleanup(func() { _ = o.stop() })
	o.used(t) // the first answer comes when its caches are filled
	return o
}

func (o *operator) used(t *testing.T) usage { t.Helper(); return o.tell(t, "") }

// heap is the bytes that live on its heap after a garbage collection.
func (o *operator) heap(t *testing.T) uint64 { t.Helper(); return o.tell(t, withHeap).Heap }

func (o *operator) tell(t *testing.T, what string) usage {
	t.Helper()
	var u usage
	_, err := fmt.Fprintln(o.ask, what)
	if err == nil {
		err = o.answers.Decode(&u)
	}
	if err != nil {
		t.Fatalf("the operator does not answer: %v", err)
	}
	return u
}

// stop ends the process; once is enough.
func (o *operator) stop() error {
	if o.process == nil {
		return nil
	}
	process := o.process
	o.process = nil
	return errors.Join(o.ask.Close(), process.Wait())
}

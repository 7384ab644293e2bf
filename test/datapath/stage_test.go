package datapath

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

const adapter = "faulty:Faulty"

// stage is one router and one supervisor with its workers on this machine. Its methods are safe for concurrent use, but for those that start,
// stop or kill the router.
type stage struct {
	t          testing.TB
	dir        string
	binary     string
	listen     string
	admin      string
	router     *exec.Cmd
	supervisor *exec.Cmd
	conn       *grpc.ClientConn
	client     rpcv1.PoolClient
	env        []string
}

// newStage starts a pool with the settings of a WorkerGroup.spec in YAML; env is for the worker container.
func newStage(t testing.TB, spec string, env ...string) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "spk") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := routerBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, dir: dir, binary: binary, listen: freeAddress(t), admin: freeAddress(t), env: env}
	s.configure(spec)
	s.startRouter()
	t.Cleanup(func() { s.stop(s.router) })
	s.startSupervisor()
	t.Cleanup(func() { s.stop(s.supervisor) })
	s.conn = s.dial()
	s.client = rpcv1.NewPoolClient(s.conn)
	return s
}

func (s *stage) dial(options ...grpc.DialOption) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.listen, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// freeAddress is one that no outgoing connection is given meanwhile, as it may be between two lives of a router: it is below Linux's range for those.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000)))
		if err == nil {
			defer func() { _ = l.Close() }()
			return l.Addr().String()
		}
	}
	t.Fatal("no port between 20000 and 30000 is free")
	return ""
}

func (s *stage) socket() string { return filepath.Join(s.dir, "bridge.sock") }

func (s *stage) journal() string { return filepath.Join(s.dir, "journal") }

// configure writes the config file; the router looks at it every 500 ms.
func (s *stage) configure(spec string) {
	s.t.Helper()
	text := "poolName: faulty\nrevision: r1\nimage: none\nadapter: " + adapter + "\n" + spec
	if err := os.WriteFile(filepath.Join(s.dir, "pool.yaml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) startRouter() {
	s.t.Helper()
	s.router = s.start(s.binary, []string{"--config", filepath.Join(s.dir, "pool.yaml"), "--listen", s.listen,
		"--admin-listen", s.admin, "--bridge-socket", s.socket(), "--state-dir", s.dir})
}

func (s *stage) startSupervisor() {
	s.t.Helper()
	path := filepath.Join(fixture.Root(), "worker-image/src") + ":" + filepath.Join(fixture.Root(), "test/datapath/adapter")
	if workerBug != "" {
		path = filepath.Join(fixture.Root(), "worker-image/tests/seeded") + ":" + path
	}
	env := append([]string{
		"PYTHONPATH=" + path, "SNAKEPIT_SEEDED_BUG=" + workerBug, "SNAKEPIT_BRIDGE=" + s.socket(),
		"SNAKEPIT_POD_UID=local", "SNAKEPIT_POD_NAME=local", "SNAKEPIT_DRAIN_TIMEOUT=4", "SNAKEPIT_ORPHAN_TIMEOUT=10", "JOURNAL=" + s.journal(),
	}, s.env...)
	s.supervisor = s.start(python(), []string{"-m", "snakepit.supervisor", adapter}, env...)
}

func (s *stage) start(name string, args []string, env ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	log, err := os.OpenFile(filepath.Join(s.dir, filepath.Base(name)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			s.t.Logf("%s, the last lines:\n%s", filepath.Base(name), tail(string(text), 60))
		}
	})
	return cmd
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// stop ends a process that this test started.
func (s *stage) stop(cmd *exec.Cmd) {
	if cmd == nil || cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		s.t.Errorf("%s did not end within 20 s of SIGTERM", cmd.Path)
		_ = cmd.Process.Kill()
		<-done
	}
}

// logged says whether the supervisor's or a worker's output holds the text.
func (s *stage) logged(text string) bool {
	s.t.Helper()
	page, err := os.ReadFile(filepath.Join(s.dir, filepath.Base(python())+".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(string(page), text)
}

// total reads a metric that has no lines before something was counted.
func (s *stage) total(name string) int {
	s.t.Helper()
	text := s.metric(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return int(n)
}

// killRouter ends the router by SIGKILL and starts its successor.
func (s *stage) killRouter() {
	_ = s.router.Process.Kill()
	_ = s.router.Wait()
	s.startRouter()
}

// answer is one call's end.
type answer struct {
	value   *rpcv1.Value
	header  metadata.MD
	trailer metadata.MD
	err     error
}

func (a answer) status() *status.Status { return status.Convert(a.err) }

func (a answer) info() *errdetails.ErrorInfo {
	for _, d := range a.status().Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

func (a answer) reason() string { return a.info().GetReason() }

// execution is NOT_STARTED, MAYBE_EXECUTED, FAILED, or empty for an error that is not the router's.
func (a answer) execution() string { return a.info().GetMetadata()["execution"] }

func (a answer) token() string { return strings.Join(a.header.Get("snakepit-session-token"), "") }

func (a answer) field(name string) int64 { return a.value.GetMap().GetFields()[name].GetInteger() }

type arguments = map[string]*rpcv1.Value

// call makes one call of at most 30 s; pairs are metadata.
func (s *stage) call(tool string, args arguments, pairs ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.callIn(ctx, tool, args, pairs...)
}

func (s *stage) callIn(ctx context.Context, tool string, args arguments, pairs ...string) answer {
	var a answer
	response, err := s.client.Execute(metadata.AppendToOutgoingContext(ctx, pairs...), &rpcv1.ExecuteRequest{Tool: tool, Arguments: args},
		grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	a.value, a.err = response.GetResult(), err
	return a
}

func integer(n int64) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Integer{Integer: n}} }

func number(x float64) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Number{Number: x}} }

func text(s string) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Text{Text: s}} }

func data(b []byte) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Data{Data: b}} }

func (s *stage) metric(name string) string {
	response, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	page, _ := io.ReadAll(response.Body)
	http.DefaultClient.CloseIdleConnections()
	for _, line := range strings.Split(string(page), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return rest
		}
	}
	return ""
}

// expectReady waits until so many workers are ready.
func (s *stage) expectReady(workers int) {
	s.t.Helper()
	fixture.Eventually(s.t, 30*time.Second, fmt.Sprintf("%d ready workers", workers), func() error {
		if got := s.metric(`snakepit_router_workers{state="Ready"}`); got != strconv.Itoa(workers) {
			return fmt.Errorf("ready workers: %s", got)
		}
		return nil
	})
}

func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	fixture.Eventually(t, 30*time.Second, what, try)
}

// expectIdle waits until no slot is taken: a reservation that is never released would show here.
func (s *stage) expectIdle() {
	s.t.Helper()
	fixture.Eventually(s.t, 15*time.Second, "no call in flight", func() error {
		for _, name := range []string{"snakepit_router_calls_in_flight", "snakepit_router_queue_length"} {
			if got := s.metric(name); got != "0" {
				return fmt.Errorf("%s is %s", name, got)
			}
		}
		return nil
	})
}

// workers lists the process ids of the workers: the leaves that run the adapter, found below the supervisor by what they answer.
func (s *stage) workers(n int) []int {
	s.t.Helper()
	found := map[int]bool{}
	fixture.Eventually(s.t, 30*time.Second, "the process ids of the workers", func() error {
		var mu sync.Mutex
		var group sync.WaitGroup
		for i := range n * 4 {
			group.Go(func() {
				a := s.call("pid", nil, "snakepit-session", fmt.Sprint("who-", i), "snakepit-session-create", "true")
				mu.Lock()
				defer mu.Unlock()
				if a.err == nil {
					found[int(a.value.GetInteger())] = true
				}
			})
		}
		group.Wait()
		for pid := range found {
			if syscall.Kill(pid, 0) != nil {
				delete(found, pid)
			}
		}
		if len(found) < n {
			return fmt.Errorf("found %d", len(found))
		}
		return nil
	})
	pids := make([]int, 0, len(found))
	for pid := range found {
		pids = append(pids, pid)
	}
	return pids
}

// marks counts how often the handler of each key began.
func (s *stage) marks() map[string]int {
	s.t.Helper()
	page, err := os.ReadFile(s.journal())
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	found := map[string]int{}
	for _, line := range strings.Fields(string(page)) {
		found[line]++
	}
	return found
}

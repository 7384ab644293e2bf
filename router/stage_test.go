package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
)

// buildRouter builds the binary once for all stories.
var buildRouter = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "router")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, nil
})

var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// stage is one router and one supervisor on this machine.
type stage struct {
	t          *testing.T
	dir        string
	binary     string
	listen     string
	admin      string
	router     *exec.Cmd
	supervisor *exec.Cmd
	client     rpcv1.PoolClient
}

func newStage(t *testing.T, spec string) *stage {
	t.Helper()
	if _, err := os.Stat(python); err != nil {
		t.Skip("left out: the stories with real Python workers; run `make venv` first")
	}
	dir, err := os.MkdirTemp("", "spk") // t.TempDir is too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := buildRouter()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, dir: dir, binary: binary, listen: freeAddress(t), admin: freeAddress(t)}
	s.configure(spec)
	s.startRouter()
	t.Cleanup(func() { s.stop(s.router) })
	s.supervisor = s.start(python, []string{"-m", "snakepit.supervisor", "snakepit.examples.counter:Counter"},
		"PYTHONPATH="+absolute(t, "../worker-image/src"), "SNAKEPIT_BRIDGE="+s.socket(),
		"SNAKEPIT_POD_UID=local", "SNAKEPIT_POD_NAME=local", "SNAKEPIT_DRAIN_TIMEOUT=4")
	t.Cleanup(func() { s.stop(s.supervisor) })
	conn, err := grpc.NewClient("passthrough:///"+s.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.client = rpcv1.NewPoolClient(conn)
	return s
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (s *stage) socket() string { return filepath.Join(s.dir, "bridge.sock") }

// configure writes the config file; the router looks at it every 500 ms.
func (s *stage) configure(spec string) {
	s.t.Helper()
	text := "poolName: counter\nrevision: r1\nimage: none\nadapter: snakepit.examples.counter:Counter\n" + spec
	if err := os.WriteFile(filepath.Join(s.dir, "pool.yaml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) startRouter() {
	s.router = s.start(s.binary, []string{"--config", filepath.Join(s.dir, "pool.yaml"), "--listen", s.listen,
		"--admin-listen", s.admin, "--bridge-socket", s.socket(), "--state-dir", s.dir})
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
			s.t.Logf("%s:\n%s", filepath.Base(name), text)
		}
	})
	return cmd
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
	case <-time.After(15 * time.Second):
		s.t.Errorf("%s did not end within 15 s of SIGTERM", cmd.Path)
		_ = cmd.Process.Kill()
		<-done
	}
}

func (s *stage) killRouter() {
	_ = s.router.Process.Kill()
	_ = s.router.Wait()
}

// answer is one call's end.
type answer struct {
	value   *rpcv1.Value
	header  metadata.MD
	trailer metadata.MD
	err     error
}

func (a answer) reason() string {
	for _, d := range status.Convert(a.err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func (a answer) token() string { return strings.Join(a.header.Get("snakepit-session-token"), "") }

func (s *stage) call(tool string, arguments map[string]*rpcv1.Value, pairs ...string) answer {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), 10*time.Second)
	defer cancel()
	var a answer
	response, err := s.client.Execute(ctx, &rpcv1.ExecuteRequest{Tool: tool, Arguments: arguments}, grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	a.value, a.err = response.GetResult(), err
	return a
}

func integer(n int64) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Integer{Integer: n}} }

func number(x float64) *rpcv1.Value { return &rpcv1.Value{Kind: &rpcv1.Value_Number{Number: x}} }

// eventually asks until the answer is empty, and fails with the last one.
func eventually(t *testing.T, within time.Duration, ask func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		why := ask()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, why)
		}
		time.Sleep(20 * time.Millisecond) // between two looks, with a deadline
	}
}

func (s *stage) metric(name string) string {
	response, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(response.Body)
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return rest
		}
	}
	return ""
}

func (s *stage) expectReady(workers int) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() string {
		if got := s.metric(`snakepit_router_workers{state="Ready"}`); got != fmt.Sprint(workers) {
			return "ready workers: " + got
		}
		return ""
	})
}

func (s *stage) expectCount(want int64, session string, pairs ...string) answer {
	s.t.Helper()
	a := s.call("count", nil, append([]string{"snakepit-session", session}, pairs...)...)
	if a.err != nil || a.value.GetInteger() != want {
		s.t.Fatalf("count in session %s: %v, %v; want %d", session, a.value, a.err, want)
	}
	return a
}

package upstream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// answers serves a worker's DATA connection without allocating: each call with its own payload.
func answers(conn net.Conn) {
	r, out := bufio.NewReaderSize(conn, 128<<10), make([]byte, 0, 128<<10)
	for {
		head, err := r.Peek(4)
		if err != nil {
			return
		}
		n := 4 + int(binary.LittleEndian.Uint32(head))
		all, err := r.Peek(n)
		if err != nil {
			return
		}
		f, _, err := bridge.Decode(all)
		if err != nil {
			return
		}
		if f.Kind == bridge.KindCall {
			accepted := bridge.Frame{Kind: bridge.KindAccepted, ID: f.ID}
			finish := bridge.Frame{Kind: bridge.KindFinish, ID: f.ID, Flags: 3, Payload: f.Payload}
			out = finish.Append(accepted.Append(out[:0]))
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
		_, _ = r.Discard(n) // buffered
	}
}

// exchange runs one call as the front does.
func (s *scene) exchange(ask *front.Call) error {
	x, err := s.Admit(ask)
	if err != nil {
		return err
	}
	defer x.Release()
	for {
		reply, err := x.Recv(s.ctx)
		reply.Message.Free()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// allocations counts the objects that were allocated by each package of this module since the program began.
func allocations() map[string]int64 {
	runtime.GC()
	runtime.GC() // the profile shows what was allocated before the last but one
	records := make([]runtime.MemProfileRecord, 10_000)
	n, ok := runtime.MemProfile(records, true)
	if !ok {
		panic("more than 10,000 places allocate")
	}
	by := map[string]int64{}
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if _, rest, ours := strings.Cut(f.Function, "/snakepit/router/"); ours {
				pkg, _, _ := strings.Cut(rest, ".")
				by[pkg] += r.AllocObjects
				break
			}
		}
	}
	return by
}

// B6: allocations a call in dispatch, session and bridge, at most 2; calls without a session and within one.
func TestAllocationsOfACall(t *testing.T) {
	old := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = old }()
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.saying(sup, 0, 1, &bridgev1.Hello{Tools: []*bridgev1.Tool{{Name: "echo"}}})
	go answers(w.Data.Conn)
	payload := mem.BufferSlice{mem.SliceBuffer(make([]byte, 1024))}
	for _, session := range []string{"", "s"} {
		ask := front.Call{Target: "echo", Ready: true, Request: payload, RequestID: "r", Session: session, Create: session != ""}
		const n = 2000
		run := func() {
			for range n {
				again := ask
				if err := s.exchange(&again); err != nil {
					t.Fatal(err)
				}
			}
		}
		run()
		before := allocations()
		run()
		total := 0.0
		for pkg, objects := range allocations() {
			each := float64(objects-before[pkg]) / n
			if pkg == "dispatch" || strings.HasPrefix(pkg, "dispatch/") || pkg == "session" || pkg == "bridge" {
				total += each
			}
			if each > 0.01 {
				t.Logf("session %q: %s allocates %.2f objects a call", session, pkg, each)
			}
		}
		if total > 2 {
			t.Errorf("session %q: dispatch, session and bridge allocate %.2f objects a call", session, total)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	s := newScene(b, testSettings(1))
	sup := fakeworker.DialSupervisor(b, s.socket, pod)
	w := s.saying(sup, 0, 1, &bridgev1.Hello{Tools: []*bridgev1.Tool{{Name: "echo"}}})
	go answers(w.Data.Conn)
	payload := mem.BufferSlice{mem.SliceBuffer(make([]byte, 1024))}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.exchange(&front.Call{Target: "echo", Ready: true, Request: payload, RequestID: "r"}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

package bridge_test

import (
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
)

const allSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// memory makes a file in memory.
func memory(t *testing.T, size int64, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("marks", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "marks")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// handOver connects a worker whose DATA Hello says that marks of that size come with it, and sends these descriptors.
func (h *house) handOver(said uint32, slots uint32, versions []uint32, files ...*os.File) (*fakeworker.Worker, *bridgev1.Welcome) {
	h.t.Helper()
	s := fakeworker.DialSupervisor(h.t, h.socket, pod)
	h.expect("supervisor up")
	w := &fakeworker.Worker{ID: s.Started(0, 1)}
	hello := func(role bridgev1.Role) *bridgev1.Hello {
		return &bridgev1.Hello{Role: role, Versions: versions, Incarnation: w.ID, Proof: fakeworker.Proof(1), Slots: slots}
	}
	w.Control = fakeworker.Dial(h.t, h.socket, hello(bridgev1.Role_ROLE_CONTROL))
	w.Control.ExpectWelcome()
	w.Data = fakeworker.Dial(h.t, h.socket, nil)
	data := hello(bridgev1.Role_ROLE_DATA)
	data.MarksBytes = said
	payload, err := proto.Marshal(data)
	if err != nil {
		h.t.Fatal(err)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	frame := bridge.Frame{Kind: bridge.KindHello, Payload: payload}
	if _, _, err := w.Data.Conn.(*net.UnixConn).WriteMsgUnix(frame.Append(nil), unix.UnixRights(fds...), nil); err != nil {
		h.t.Fatal(err)
	}
	welcome := w.Data.ExpectWelcome()
	h.expect("up")
	return w, welcome
}

func setMark(t *testing.T, f *os.File, slot int, call uint64) {
	t.Helper()
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, call), int64(8*slot)); err != nil {
		t.Fatal(err)
	}
}

// With marks no frame says that a call begins; when the connection has ended, the marks tell which calls had.
func TestMarksTellWhatBegan(t *testing.T) {
	h := newHouse(t)
	file := memory(t, 16, allSeals)
	w, welcome := h.handOver(16, 2, []uint32{1, 2}, file)
	if !welcome.GetMarks() {
		t.Fatal("the marks were not taken")
	}
	link := h.worker(1)
	finished, first := start(t, link, []byte("1"))
	setMark(t, file, 0, 1)
	w.Answer(1, []byte("answer"))
	if end := first.end(t); end.Kind != bridge.Finished {
		t.Fatalf("ended as %d", end.Kind)
	}
	if m, _ := recv(t, finished); string(m) != "answer" {
		t.Fatalf("answered %q", m)
	}
	_, began := start(t, link, []byte("2"))
	_, streams := start(t, link, []byte("3"))
	_, never := start(t, link, []byte("4"))
	setMark(t, file, 0, 2)
	setMark(t, file, 1, 3)
	w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: 3, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: []byte("part")})
	select {
	case <-streams.accepted:
	case <-time.After(5 * time.Second):
		t.Fatal("a message does not show that its call has begun")
	}
	for range 4 {
		w.Data.Expect(bridge.KindCall)
	}
	_ = w.Data.Conn.Close()
	for name, c := range map[string]struct {
		seen *watcher
		want bridge.EndKind
	}{"marked": {began, bridge.MaybeExecuted}, "answering": {streams, bridge.MaybeExecuted}, "not marked": {never, bridge.NotStarted}} {
		if end := c.seen.end(t); end.Kind != c.want {
			t.Errorf("%s: ended as %d, want %d", name, end.Kind, c.want)
		}
	}
	if len(began.accepted) != 1 || len(never.accepted) != 0 {
		t.Error("what the marks say was not told")
	}
}

// A worker that took marks and sends Accepted for a complete call breaks the rules, and one whose request comes in pieces is told by a frame as ever.
func TestMarksAndAcceptedExcludeEachOther(t *testing.T) {
	h := newHouse(t)
	w, _ := h.handOver(8, 1, []uint32{1, 2}, memory(t, 8, allSeals))
	large := make([]byte, bridge.MaxQueued+1)
	_, pieces := start(t, h.worker(1), large)
	w.Data.Expect(bridge.KindCall)
	w.Accept(1)
	w.Answer(1, nil)
	if end := pieces.end(t); end.Kind != bridge.Finished {
		t.Fatalf("a request in pieces ended as %d", end.Kind)
	}
	_, whole := start(t, h.worker(1), []byte("x"))
	w.Data.Expect(bridge.KindCall)
	w.Accept(2)
	w.Data.Expect(bridge.KindGoodbye)
	if end := whole.end(t); end.Kind != bridge.MaybeExecuted {
		t.Fatalf("ended as %d", end.Kind)
	}
}

// What is not sealed memory of the size that was said is not taken: each call is told by a frame then, and no descriptor stays open.
func TestOtherDescriptorsAreNotTaken(t *testing.T) {
	pipe, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = pipe.Close(), end.Close() })
	plain, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	if err := plain.Truncate(8); err != nil {
		t.Fatal(err)
	}
	good, both := memory(t, 8, allSeals), []uint32{1, 2}
	for name, c := range map[string]struct {
		said     uint32
		versions []uint32
		files    []*os.File
		taken    bool
	}{
		"good":                 {8, both, []*os.File{good}, true},
		"good, and one beside": {8, both, []*os.File{good, pipe}, true},
		"none":                 {8, both, nil, false},
		"not announced":        {0, both, []*os.File{good}, false},
		"another size said":    {16, both, []*os.File{good}, false},
		"another size":         {8, both, []*os.File{memory(t, 16, allSeals)}, false},
		"may shrink":           {8, both, []*os.File{memory(t, 8, unix.F_SEAL_GROW)}, false},
		"no seals":             {8, both, []*os.File{memory(t, 8, 0)}, false},
		"a pipe":               {8, both, []*os.File{pipe}, false},
		"a file":               {8, both, []*os.File{plain}, false},
		"version 1":            {8, []uint32{1}, []*os.File{good}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := handed(t)
			t.Cleanup(func() { // after the house
				if after := handed(t); after != before {
					t.Errorf("%d descriptors before, %d after", before, after)
				}
			})
			h := newHouse(t)
			w, welcome := h.handOver(c.said, 1, c.versions, c.files...)
			if welcome.GetMarks() != c.taken {
				t.Fatalf("taken: %v", welcome.GetMarks())
			}
			call, seen := start(t, h.worker(1), []byte("x"))
			if !c.taken {
				w.Accept(1)
			}
			w.Answer(1, []byte("y"))
			if m, _ := recv(t, call); string(m) != "y" || seen.end(t).Kind != bridge.Finished {
				t.Fatalf("answered %q", m)
			}
			w.Close()
			h.expect("down")
		})
	}
}

// handed counts this process's descriptors of what the tests hand over.
func handed(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		target, _ := os.Readlink("/proc/self/fd/" + entry.Name()) // one that was closed meanwhile
		if strings.HasPrefix(target, "/memfd:marks") || strings.HasPrefix(target, "pipe:") || strings.HasSuffix(target, "/file") {
			n++
		}
	}
	return n
}

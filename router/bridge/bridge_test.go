package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCallAndAnswer(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	if got := link.Declared().Tools; len(got) != 1 || got[0].GetName() != "echo" {
		t.Fatalf("tools: %v", got)
	}
	seen := newWatcher()
	c := newCall(seen)
	err := link.Queue(c, &bridge.Request{Open: true, Name: "s", Epoch: 9, Timeout: time.Second, Payload: [][]byte{[]byte("h"), []byte("i")}, Size: 2, MaxMessage: 100})
	if err != nil {
		t.Fatal(err)
	}
	link.Flush()
	if f := w.Data.Expect(bridge.KindSessionOpen); f.Epoch != 9 {
		t.Fatalf("opened epoch %d", f.Epoch)
	}
	f := w.Data.Expect(bridge.KindCall)
	if f.ID != 1 || f.Epoch != 9 || f.Timeout != 1e6 || string(f.Payload) != "hi" || f.Flags != 7 {
		t.Fatalf("call %+v", f)
	}
	w.Accept(1)
	<-seen.accepted
	w.Answer(1, []byte("there"))
	if m, _ := recv(t, c); string(m) != "there" {
		t.Fatalf("answer %q", m)
	}
	if _, end := recv(t, c); end == nil || end.Kind != bridge.Finished || end.Outcome != bridge.OutcomeDone {
		t.Fatalf("end %+v", end)
	}
	seen.end(t)
	link.QueueClose(9, 1)
	link.Flush()
	if f := w.Data.Expect(bridge.KindSessionClose); f.Epoch != 9 || f.Cause != 1 {
		t.Fatalf("close %+v", f)
	}
}

func TestHowBrokenLinksAreClassified(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *fakeworker.Worker)
		want bridge.EndKind
	}{
		"closed before it read the call": {func(w *fakeworker.Worker) {}, bridge.NotStarted},
		"closed after it read the call":  {func(w *fakeworker.Worker) { w.Data.Expect(bridge.KindCall) }, bridge.NotStarted},
		"closed after Accepted": {func(w *fakeworker.Worker) {
			w.Data.Expect(bridge.KindCall)
			w.Accept(1)
		}, bridge.MaybeExecuted},
		"Accepted, call not read": {func(w *fakeworker.Worker) { w.Accept(1) }, bridge.MaybeExecuted},
		"broke the rules": {func(w *fakeworker.Worker) {
			w.Data.Expect(bridge.KindCall)
			w.Data.Send(&bridge.Frame{Kind: bridge.KindCancel, ID: 1})
			w.Data.Expect(bridge.KindGoodbye)
		}, bridge.MaybeExecuted},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			_, w, link := h.up()
			call, seen := start(t, link, []byte("x"))
			c.do(w)
			_ = w.Data.Conn.Close()
			if end := seen.end(t); end.Kind != c.want {
				t.Fatalf("ended as %d, want %d", end.Kind, c.want)
			}
			h.expect("down")
			if _, end := recv(t, call); end == nil || end.Kind != c.want {
				t.Fatalf("the caller sees %+v", end)
			}
			if err := link.Queue(newCall(newWatcher()), &bridge.Request{}); !errors.Is(err, bridge.ErrDown) {
				t.Fatalf("a call on a broken link: %v", err)
			}
		})
	}
}

func TestAWorkerComesBack(t *testing.T) {
	h := newHouse(t)
	_, w, _ := h.up()
	w.Close()
	h.expect("down")
	fakeworker.DialWorker(t, h.socket, w.ID)
	h.expect("up")
}

// The end of the old DATA may be read when the next CONTROL is there already.
func TestAWorkerComesBackBeforeItsOldConnectionEnded(t *testing.T) {
	h := newHouse(t)
	_, w, _ := h.up()
	_ = w.Control.Conn.Close()
	h.expect("down")
	again := func(role bridgev1.Role) *fakeworker.Peer {
		return fakeworker.Dial(t, h.socket, &bridgev1.Hello{Role: role, Incarnation: w.ID, Proof: fakeworker.Proof(1)})
	}
	again(bridgev1.Role_ROLE_CONTROL).ExpectWelcome()
	_ = w.Data.Conn.Close()
	again(bridgev1.Role_ROLE_DATA).ExpectWelcome()
	h.expect("up")
}

func TestRefusedHellos(t *testing.T) {
	h := newHouse(t)
	s, w, _ := h.up()
	control := func(change func(*bridgev1.Hello)) *fakeworker.Peer {
		hello := &bridgev1.Hello{Role: bridgev1.Role_ROLE_CONTROL, Incarnation: w.ID, Proof: fakeworker.Proof(1)}
		change(hello)
		return fakeworker.Dial(t, h.socket, hello)
	}
	if got := control(func(x *bridgev1.Hello) { x.Proof = fakeworker.Proof(2) }).ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_IDENTITY {
		t.Errorf("wrong proof: %v", got)
	}
	if got := control(func(*bridgev1.Hello) {}).ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_DUPLICATE {
		t.Errorf("second connection: %v", got)
	}
	other := &bridgev1.Incarnation{PodUid: "pod-2", Nonce: 1}
	if got := control(func(x *bridgev1.Hello) { x.Incarnation = other }).ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_IDENTITY {
		t.Errorf("another pod: %v", got)
	}
	second := fakeworker.Dial(t, h.socket, &bridgev1.Hello{Role: bridgev1.Role_ROLE_SUPERVISOR, Incarnation: &bridgev1.Incarnation{PodUid: pod}})
	if got := second.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_DUPLICATE {
		t.Errorf("second supervisor: %v", got)
	}
	garbage := fakeworker.Dial(t, h.socket, nil)
	if _, err := garbage.Conn.Write([]byte("\xff\xff\xff\xffgarbage")); err != nil {
		t.Fatal(err)
	}
	if got := garbage.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR {
		t.Errorf("garbage: %v", got)
	}
	s.Exited(w.ID, "KILLED") // nobody was harmed
	h.expect("exited")
}

func TestAHelloIsHeldUntilTheSupervisorAnnouncesIt(t *testing.T) {
	h := newHouse(t)
	id := &bridgev1.Incarnation{PodUid: pod, Slot: 3, Nonce: 5}
	early := fakeworker.Dial(t, h.socket, &bridgev1.Hello{Role: bridgev1.Role_ROLE_CONTROL, Incarnation: id, Proof: fakeworker.Proof(5)})
	fakeworker.DialSupervisor(t, h.socket, pod, fakeworker.State(pod, 3, 5))
	early.Expect(bridge.KindWelcome)
}

// short is a listener that is out of descriptors a few times.
type short struct {
	net.Listener
	left atomic.Int32
}

func (l *short) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestWantOfDescriptorsPasses(t *testing.T) {
	h := newHouseOn(t, func(l net.Listener) net.Listener {
		wrapped := &short{Listener: l}
		wrapped.left.Store(2)
		return wrapped
	})
	h.expect("note: a connection could not be accepted; trying again")
	h.up()
}

func TestAHelloInParts(t *testing.T) {
	h := newHouse(t)
	state := &bridgev1.SupervisorState{Workers: []*bridgev1.WorkerState{fakeworker.State(pod, 3, 5)}, Continued: true, Drain: &bridgev1.DrainRequested{}}
	s := fakeworker.DialSupervisorSaying(t, h.socket, pod, state)
	h.expect("registered")
	more := func(name string, continued bool) {
		lost := []*bridgev1.LostLife{{Session: &bridgev1.Session{Name: name}}}
		s.Tell(&bridgev1.FromSupervisor{Kind: &bridgev1.FromSupervisor_More{More: &bridgev1.SupervisorState{Lost: lost, Continued: continued}}})
	}
	more("a", true)
	h.expect("lost a")
	h.never("supervisor up")
	h.never("drain")
	more("b", false)
	h.expect("supervisor up")
	h.expect("drain")
	more("c", false)
	if got := s.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR {
		t.Errorf("after the last part: %v", got)
	}
	h.expect("supervisor down")
	h.never("lost c")
}

func TestWhatASupervisorDoesNotListIsGone(t *testing.T) {
	h := newHouse(t)
	s, w, link := h.up()
	_, seen := start(t, link, nil)
	_ = s.Conn.Close()
	h.expect("supervisor down")
	go func() { w.Data.Expect(bridge.KindCall); w.Close() }()
	fakeworker.DialSupervisor(t, h.socket, pod)
	h.expect("exited")
	select { // its calls have ended before
	case end := <-seen.ended:
		if end.Kind != bridge.NotStarted {
			t.Errorf("ended as %d", end.Kind)
		}
	default:
		t.Error("the worker is gone and its call has not ended")
	}
}

func TestLargeRequestsAndAnswersWaitForCredit(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	request := bytes.Repeat([]byte("r"), 3<<20)
	seen := newWatcher()
	c := newCall(seen)
	wrote := make(chan error, 1)
	go func() {
		if err := link.Queue(c, requestOf(request)); err != nil {
			wrote <- err
			return
		}
		link.Flush()
		wrote <- c.SendRest(context.Background(), [][]byte{request[:5], request[5:]}, len(request))
	}()
	f := w.Data.Expect(bridge.KindCall)
	w.Accept(f.ID)
	got := len(f.Payload)
	for f.Flags&bridge.FlagEndMessage == 0 {
		if got == bridge.InitialWindow || got == 2*bridge.InitialWindow { // all the credit is used: nothing may come before the window opens
			w.Control.Send(&bridge.Frame{Kind: bridge.KindWindow, ID: f.ID, Bytes: bridge.InitialWindow})
		}
		f = w.Data.Expect(bridge.KindMessage)
		got += len(f.Payload)
	}
	if got != len(request) {
		t.Fatalf("%d bytes of the request came", got)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	answerInPieces(t, w, f.ID, 3<<20)
	m, _ := recv(t, c)
	if len(m) != 3<<20 {
		t.Fatalf("answer of %d bytes", len(m))
	}
	seen.end(t)
}

// answerInPieces sends one answer of n bytes and obeys credit.
func answerInPieces(t *testing.T, w *fakeworker.Worker, id uint32, n int) {
	t.Helper()
	credit := bridge.InitialWindow
	for n > bridge.MaxPayload {
		for credit < bridge.MaxPayload {
			credit += int(w.Control.Expect(bridge.KindWindow).Bytes)
		}
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: id, Flags: bridge.FlagMessage, Payload: make([]byte, bridge.MaxPayload)})
		n -= bridge.MaxPayload
		credit -= bridge.MaxPayload
	}
	for credit < n {
		credit += int(w.Control.Expect(bridge.KindWindow).Bytes)
	}
	w.Answer(id, make([]byte, n))
}

func TestAnAnswerBeyondTheLimitIsCutOff(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	c, seen := start(t, link, nil)
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	go func() { answerInPieces(t, w, id, 5<<20) }()
	if _, end := recv(t, c); end == nil || end.Kind != bridge.TooLarge {
		t.Fatalf("end %+v", end)
	}
	if end := seen.end(t); end.Kind != bridge.Finished {
		t.Fatalf("the slot is free by %+v", end)
	}
}

func TestCreditThatIsOverrunBreaksTheConnection(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	_, seen := start(t, link, nil)
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	for range 5 { // 1.25 MiB in whole messages that nobody takes
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: id, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: make([]byte, bridge.MaxPayload)})
	}
	if got := w.Data.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR {
		t.Errorf("goodbye %v", got)
	}
	if end := seen.end(t); end.Kind != bridge.MaybeExecuted {
		t.Errorf("end %+v", end)
	}
}

func TestCancelOvertakesOnControl(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	c, seen := start(t, link, nil)
	c.Cancel(bridge.CancelByCaller)
	c.Cancel(bridge.CancelByDeadline) // once is enough
	if f := w.Control.Expect(bridge.KindCancel); f.ID != 1 || f.Cause != bridge.CancelByCaller {
		t.Fatalf("cancel %+v", f)
	}
	w.Data.Expect(bridge.KindCall)
	w.Data.Send(&bridge.Frame{Kind: bridge.KindFinish, ID: 1, Code: 1, Outcome: bridge.OutcomeRefusedCancelled})
	if end := seen.end(t); end.Outcome != bridge.OutcomeRefusedCancelled {
		t.Fatalf("end %+v", end)
	}
}

func TestListenReplacesOnlyADeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.Listen(path); err == nil {
		t.Fatal("took the socket of a living router")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	again, err := bridge.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.Listen(path); err == nil {
		t.Fatal("replaced a file that is not a socket")
	}
}

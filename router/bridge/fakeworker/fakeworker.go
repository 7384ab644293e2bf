// Package fakeworker is the Python side of the bridge in Go, for tests: connections that say exactly what a test wants them to say.
//
// It is not a worker: it keeps no sessions and runs nothing. Only tests import it.
package fakeworker

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"google.golang.org/protobuf/proto"
)

// wait bounds every step of a test.
const wait = 5 * time.Second

// Peer is one connection to the router.
type Peer struct {
	t    testing.TB
	Conn net.Conn
}

// Dial connects and says Hello, for versions 1 and 2 unless it names others; it does not wait for the answer.
func Dial(t testing.TB, socket string, hello *bridgev1.Hello) *Peer {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &Peer{t: t, Conn: conn}
	if hello != nil {
		if hello.Versions == nil {
			hello.Versions = []uint32{1, 2}
		}
		p.SendMessage(bridge.KindHello, hello)
	}
	return p
}

// SendMessage writes a frame whose payload is a protobuf message.
func (p *Peer) SendMessage(kind bridge.Kind, m proto.Message) {
	p.t.Helper()
	payload, err := proto.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Send(&bridge.Frame{Kind: kind, Payload: payload})
}

// Send writes a frame.
func (p *Peer) Send(f *bridge.Frame) {
	p.t.Helper()
	_ = p.Conn.SetWriteDeadline(time.Now().Add(wait))
	if _, err := p.Conn.Write(f.Append(nil)); err != nil {
		p.t.Errorf("write kind 0x%02x: %v", uint8(f.Kind), err)
	}
}

// Read reads one frame; an error when the router ended the connection.
func (p *Peer) Read() (bridge.Frame, error) {
	_ = p.Conn.SetReadDeadline(time.Now().Add(wait))
	head := make([]byte, 4)
	if _, err := io.ReadFull(p.Conn, head); err != nil {
		return bridge.Frame{}, err
	}
	all := make([]byte, 4+binary.LittleEndian.Uint32(head))
	copy(all, head)
	if _, err := io.ReadFull(p.Conn, all[4:]); err != nil {
		return bridge.Frame{}, err
	}
	f, _, err := bridge.Decode(all)
	return f, err
}

// Expect reads one frame of the kind; pings are answered on the way.
func (p *Peer) Expect(kind bridge.Kind) bridge.Frame {
	p.t.Helper()
	for {
		f, err := p.Read()
		if err != nil {
			p.t.Fatalf("waiting for kind 0x%02x: %v", uint8(kind), err)
		}
		if f.Kind == bridge.KindPing && kind != bridge.KindPing {
			p.Send(&bridge.Frame{Kind: bridge.KindPong, Nonce: f.Nonce})
			continue
		}
		if f.Kind != kind {
			p.t.Fatalf("got kind 0x%02x (%+v), want 0x%02x", uint8(f.Kind), f, uint8(kind))
		}
		return f
	}
}

// ExpectGoodbye reads the reason for which the router refuses.
func (p *Peer) ExpectGoodbye() bridgev1.GoodbyeReason {
	p.t.Helper()
	f := p.Expect(bridge.KindGoodbye)
	g := &bridgev1.Goodbye{}
	if err := proto.Unmarshal(f.Payload, g); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.Read(); err == nil {
		p.t.Fatal("the connection goes on after Goodbye")
	}
	return g.GetReason()
}

// Supervisor is a supervisor's connection.
type Supervisor struct {
	*Peer
	pod string
}

// DialSupervisor connects a supervisor with the workers that it lists, and waits for Welcome.
func DialSupervisor(t testing.TB, socket, pod string, workers ...*bridgev1.WorkerState) *Supervisor {
	t.Helper()
	return DialSupervisorSaying(t, socket, pod, &bridgev1.SupervisorState{Workers: workers})
}

// DialSupervisorSaying connects a supervisor that says this in its Hello, and waits for Welcome.
func DialSupervisorSaying(t testing.TB, socket, pod string, state *bridgev1.SupervisorState) *Supervisor {
	t.Helper()
	p := Dial(t, socket, &bridgev1.Hello{
		Role: bridgev1.Role_ROLE_SUPERVISOR, Incarnation: &bridgev1.Incarnation{PodUid: pod}, Supervisor: state,
	})
	p.Expect(bridge.KindWelcome)
	return &Supervisor{p, pod}
}

// Tell sends a message to the router.
func (s *Supervisor) Tell(m *bridgev1.FromSupervisor) { s.SendMessage(bridge.KindControl, m) }

// Hear reads the next message of the router.
func (s *Supervisor) Hear() *bridgev1.ToSupervisor {
	s.t.Helper()
	f := s.Expect(bridge.KindControl)
	m := &bridgev1.ToSupervisor{}
	if err := proto.Unmarshal(f.Payload, m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// ExpectSlots reads messages until the wish is these slots.
func (s *Supervisor) ExpectSlots(want ...uint32) {
	s.t.Helper()
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if d := s.Hear().GetDesired(); d != nil && fmt.Sprint(d.GetSlots()) == fmt.Sprint(append([]uint32{}, want...)) {
			return
		}
	}
	s.t.Fatalf("the wish never became %v", want)
}

// Started announces an incarnation.
func (s *Supervisor) Started(slot uint32, nonce uint64) *bridgev1.Incarnation {
	id := &bridgev1.Incarnation{PodUid: s.pod, Slot: slot, Nonce: nonce}
	s.Tell(&bridgev1.FromSupervisor{Kind: &bridgev1.FromSupervisor_Started{Started: &bridgev1.WorkerStarted{Incarnation: id, Proof: Proof(nonce)}}})
	return id
}

// Exited reports the end of an incarnation.
func (s *Supervisor) Exited(id *bridgev1.Incarnation, cause string) {
	s.Tell(&bridgev1.FromSupervisor{Kind: &bridgev1.FromSupervisor_Exited{Exited: &bridgev1.WorkerExited{Incarnation: id, Cause: cause}}})
}

// Proof is the secret of the incarnation with that nonce.
func Proof(nonce uint64) []byte { return []byte(fmt.Sprintf("%016d", nonce)) }

// State lists an incarnation as the supervisor's Hello does.
func State(pod string, slot uint32, nonce uint64, sessions ...*bridgev1.Session) *bridgev1.WorkerState {
	return &bridgev1.WorkerState{
		Incarnation: &bridgev1.Incarnation{PodUid: pod, Slot: slot, Nonce: nonce}, Proof: Proof(nonce), Sessions: sessions,
	}
}

// Worker is the pair of connections of one incarnation.
type Worker struct {
	ID            *bridgev1.Incarnation
	Data, Control *Peer
	Version       uint32 // that the router chose
}

// DialWorker connects a worker with these tools and waits until it is welcome.
func DialWorker(t testing.TB, socket string, id *bridgev1.Incarnation, tools ...*bridgev1.Tool) *Worker {
	t.Helper()
	return DialWorkerSaying(t, socket, id, &bridgev1.Hello{Tools: tools})
}

// DialWorkerSaying connects a worker whose DATA Hello declares what the given one does, for its versions.
func DialWorkerSaying(t testing.TB, socket string, id *bridgev1.Incarnation, data *bridgev1.Hello) *Worker {
	t.Helper()
	w := &Worker{ID: id}
	w.Control = Dial(t, socket, &bridgev1.Hello{Role: bridgev1.Role_ROLE_CONTROL, Versions: data.Versions, Incarnation: id, Proof: Proof(id.GetNonce())})
	w.Control.Expect(bridge.KindWelcome)
	data.Role, data.Incarnation, data.Proof = bridgev1.Role_ROLE_DATA, id, Proof(id.GetNonce())
	w.Data = Dial(t, socket, data)
	w.Version = w.Data.ExpectWelcome().GetVersion()
	return w
}

// ExpectWelcome reads the answer to Hello.
func (p *Peer) ExpectWelcome() *bridgev1.Welcome {
	p.t.Helper()
	f := p.Expect(bridge.KindWelcome)
	w := &bridgev1.Welcome{}
	if err := proto.Unmarshal(f.Payload, w); err != nil {
		p.t.Fatal(err)
	}
	return w
}

// Accept says that the call begins.
func (w *Worker) Accept(call uint32) { w.Data.Send(&bridge.Frame{Kind: bridge.KindAccepted, ID: call}) }

// Answer finishes the call with one message.
func (w *Worker) Answer(call uint32, payload []byte) {
	w.Data.Send(&bridge.Frame{Kind: bridge.KindFinish, ID: call, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: payload})
}

// SendExt writes a frame whose extension is a protobuf message.
func (p *Peer) SendExt(f *bridge.Frame, m proto.Message) {
	p.t.Helper()
	ext, err := proto.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	f.Ext = ext
	p.Send(f)
}

// Close breaks both connections, as the end of the process does.
func (w *Worker) Close() {
	_ = w.Data.Conn.Close()
	_ = w.Control.Conn.Close()
}

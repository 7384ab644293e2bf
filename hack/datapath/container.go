package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
)

// container plays a supervisor and its workers.
type container struct {
	socket  string
	workers int
	conns   []net.Conn
	group   sync.WaitGroup
}

func (c *container) start() error {
	state := &bridgev1.SupervisorState{}
	for i := range c.workers {
		state.Workers = append(state.Workers, &bridgev1.WorkerState{Incarnation: incarnation(i), Proof: proof(i)})
	}
	if err := c.dial(&bridgev1.Hello{Role: bridgev1.Role_ROLE_SUPERVISOR, Incarnation: &bridgev1.Incarnation{PodUid: "local"}, Supervisor: state}, c.control); err != nil {
		return err
	}
	for i := range c.workers {
		hello := &bridgev1.Hello{Role: bridgev1.Role_ROLE_CONTROL, Incarnation: incarnation(i), Proof: proof(i)}
		if err := c.dial(hello, c.control); err != nil {
			return err
		}
		hello = &bridgev1.Hello{Role: bridgev1.Role_ROLE_DATA, Incarnation: incarnation(i), Proof: proof(i),
			Tools:   []*bridgev1.Tool{{Name: "echo", Kind: bridgev1.ToolKind_TOOL_KIND_UNARY}},
			Methods: []*bridgev1.Method{{Path: "/bench.Echo/Call"}}}
		if err := c.dial(hello, c.data); err != nil {
			return err
		}
	}
	return nil
}

func incarnation(i int) *bridgev1.Incarnation {
	return &bridgev1.Incarnation{PodUid: "local", Slot: uint32(i), Nonce: uint64(i + 1)}
}

func proof(i int) []byte { return []byte(fmt.Sprintf("%016d", i)) }

func (c *container) stop() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.group.Wait()
}

// dial connects, says Hello, waits for Welcome and serves the connection until it ends.
func (c *container) dial(hello *bridgev1.Hello, serve func(net.Conn, *bufio.Reader)) error {
	hello.Versions = []uint32{1, 2}
	payload, err := proto.Marshal(hello)
	if err != nil {
		return err
	}
	var conn net.Conn
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("unix", c.socket); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	f := bridge.Frame{Kind: bridge.KindHello, Payload: payload}
	if _, err := conn.Write(f.Append(nil)); err != nil {
		return err
	}
	reader := bufio.NewReaderSize(conn, 512<<10)
	var answer bridge.Frame
	if err := next(reader, &answer); err != nil || answer.Kind != bridge.KindWelcome {
		return fmt.Errorf("no Welcome: kind %d, %w", answer.Kind, err)
	}
	c.group.Go(func() { serve(conn, reader) })
	return nil
}

// next reads one frame; it is valid until the next call.
func next(r *bufio.Reader, f *bridge.Frame) error {
	head, err := r.Peek(4)
	if err != nil {
		return err
	}
	n := 4 + int(binary.LittleEndian.Uint32(head))
	all, err := r.Peek(n)
	if err != nil {
		return err
	}
	if *f, _, err = bridge.Decode(all); err != nil {
		return err
	}
	_, _ = r.Discard(n) // buffered; the memory stays until the next read
	return nil
}

func (c *container) control(conn net.Conn, r *bufio.Reader) {
	var f bridge.Frame
	for next(r, &f) == nil {
		if f.Kind == bridge.KindPing {
			pong := bridge.Frame{Kind: bridge.KindPong, Nonce: f.Nonce}
			if _, err := conn.Write(pong.Append(nil)); err != nil {
				return
			}
		}
	}
}

// data answers each call with its payload, in two writes, as a worker does.
func (c *container) data(conn net.Conn, r *bufio.Reader) {
	var f bridge.Frame
	var out []byte
	for next(r, &f) == nil {
		if f.Kind == bridge.KindSessionOpen {
			opened := bridge.Frame{Kind: bridge.KindSessionOpened, Epoch: f.Epoch}
			if _, err := conn.Write(opened.Append(nil)); err != nil {
				return
			}
		}
		if f.Kind != bridge.KindCall {
			continue
		}
		accepted := bridge.Frame{Kind: bridge.KindAccepted, ID: f.ID}
		if _, err := conn.Write(accepted.Append(out[:0])); err != nil {
			return
		}
		finish := bridge.Frame{Kind: bridge.KindFinish, ID: f.ID, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: f.Payload}
		out = finish.Append(out[:0])
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// profile fetches a CPU profile while a run is under way; the returned function waits for it.
func profile(file, admin string, seconds int) func() {
	if file == "" {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			response, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, seconds))
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			out, err := os.Create(file)
			if err != nil {
				return err
			}
			if _, err := io.Copy(out, response.Body); err != nil {
				return err
			}
			return out.Close()
		}()
	}()
	return func() {
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "datapath: profile:", err)
		}
	}
}

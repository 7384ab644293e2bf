package front

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A message is refused by its announced length: it is never sent.
func TestAMessageBeyondTheLimitIsRefusedUnread(t *testing.T) {
	pool := &fakePool{limit: 1 << 20}
	_, conn := serve(t, pool)
	var got []byte
	err := conn.Invoke(context.Background(), "/demo.Echo/Unary", make([]byte, 20<<20), &got, raw)
	if code, info := reasonOf(t, err); code != codes.ResourceExhausted || info.Metadata["size"] != fmt.Sprint(20<<20) {
		t.Fatalf("%v", err)
	}
	if pool.call != nil {
		t.Fatal("it was admitted")
	}
}

func TestMessagesWaitForRoomInTheBudget(t *testing.T) {
	pool := &fakePool{limit: 1 << 20, end: errWait}
	_, conn := serve(t, pool, MessageBudget(1<<20))
	first, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		var got []byte
		done <- conn.Invoke(first, "/demo.Echo/Unary", make([]byte, 700<<10), &got, raw)
	}()
	for pool.seen() == nil {
		<-time.After(time.Millisecond)
	}
	var got []byte
	var trailer metadata.MD
	err := conn.Invoke(context.Background(), "/demo.Echo/Unary", make([]byte, 700<<10), &got, raw, grpc.Trailer(&trailer))
	if code, info := reasonOf(t, err); code != codes.ResourceExhausted || info.Reason != string(ReasonQueueTimeout) || len(trailer.Get(keyPushback)) != 1 {
		t.Fatalf("%v", err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Fatalf("the first call: %v", err)
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	pool.mu.Lock()
	pool.end = nil
	pool.mu.Unlock()
	for { // the room is free once the handler of the first has ended
		err := conn.Invoke(ctx, "/demo.Echo/Unary", make([]byte, 700<<10), &got, raw)
		if status.Code(err) != codes.ResourceExhausted {
			return
		}
	}
}

func (p *fakePool) seen() *Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.call
}

func TestBudgetServesInOrder(t *testing.T) {
	b := newBudget(100)
	ctx := context.Background()
	if err := b.take(ctx, 80, time.Second); err != nil {
		t.Fatal(err)
	}
	order := make(chan int, 3)
	for i, n := range []int64{60, 10, 1000} { // the second would fit, and waits behind the first; the third takes all
		go func() {
			if err := b.take(ctx, n, 10*time.Second); err != nil {
				t.Error(err)
			}
			order <- i
			b.give(n)
		}()
		for b.waiting.Load() != int64(i+1) {
			<-time.After(time.Millisecond)
		}
	}
	b.give(80)
	seen := map[int]bool{<-order: true, <-order: true}
	if !seen[0] || !seen[1] || <-order != 2 {
		t.Fatalf("served %v first", seen)
	}
	for b.used.Load() != 0 {
		<-time.After(time.Millisecond)
	}
	if err := b.take(ctx, 100, 0); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.take(gone, 1, time.Second); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if b.waiting.Load() != 0 || b.used.Load() != 100 {
		t.Fatalf("%d wait, %d used", b.waiting.Load(), b.used.Load())
	}
}

// What a connection does not read counts for it, and for all, until it is read or the connection ends.
func TestUnreadAnswers(t *testing.T) {
	pool := mem.NopBufferPool{}
	all := NewAnswers(400 << 10) // a connection may leave 100 KiB, all together 200 KiB
	hold := func(u *Unread, kilobytes int) mem.Buffer {
		piece := pool.Get(kilobytes << 10)
		u.Hold(cap(*piece), pool)
		return mem.NewBuffer(piece, u)
	}
	reads, lazy, other, idle := all.Connection(), all.Connection(), all.Connection(), all.Connection()
	hold(reads, 128).Free()
	unread := hold(lazy, 128)
	if reads.Full() != nil || idle.Full() != nil {
		t.Error("a connection that reads is refused")
	}
	f := lazy.Full()
	if f == nil || f.Reason != ReasonQueueFull || f.Wait <= 0 || f.Info["unread"] != fmt.Sprint(unread.Len()) || f.Info["budget"] != fmt.Sprint(100<<10) {
		t.Fatalf("%+v", f)
	}
	some := hold(other, 64)
	if other.Full() != nil {
		t.Error("refused below both bounds")
	}
	late := hold(lazy, 128)
	if other.Full() == nil || idle.Full() != nil {
		t.Error("above the bound of all, whoever has unread answers is refused, and nobody else")
	}
	lazy.end()
	lazy.end()
	if other.Full() != nil || all.used.Load() != int64(some.Len()) {
		t.Errorf("%d bytes are left of a connection that ended", all.used.Load())
	}
	for _, b := range []mem.Buffer{unread, late, some} {
		b.Free()
	}
	if n := all.used.Load(); n != 0 {
		t.Errorf("%d bytes count when all were read", n)
	}
}

func TestConnectionsBeyondTheCapAreClosed(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(inner, 1, NewAnswers(1))
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial()
	kept := <-accepted
	if text := kept.RemoteAddr().String(); !strings.HasPrefix(text, "ipv4:127.0.0.1:") {
		t.Errorf("peer %q", text)
	}
	second := dial()
	_ = second.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the second connection hangs: %v", err)
	}
	_ = kept.Close()
	_ = kept.Close()
	dial()
	_ = (<-accepted).Close()
	_ = l.Close()
	if _, open := <-accepted; open {
		t.Fatal("accepts after Close")
	}
}

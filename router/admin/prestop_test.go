package admin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// The function blocks until the end of the test, so any answer shows that it is not waited for.
func TestPreStopDrainsOnceAndAnswersAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), PreStopSocket)
	// What a router that was killed left in the way.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := ListenPreStop(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v %v, want it for its owner alone", info, err)
	}
	drains, hold := make(chan struct{}, 9), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- ServePreStop(ctx, listener, func() { drains <- struct{}{}; <-hold }, logr.Discard())
	}()
	for range 3 {
		if err := AskPreStop(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-drains:
	case <-time.After(10 * time.Second):
		t.Fatal("not drained")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
	if len(drains) != 0 {
		t.Errorf("drained %d times more than once", len(drains))
	}
	close(hold)
	if err := AskPreStop(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no router answers") {
		t.Errorf("without a router: %v", err)
	}
}

// Something else that listens there is no success: the kubelet then says that the hook failed.
func TestPreStopWantsTheAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), PreStopSocket)
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		if connection, err := listener.Accept(); err == nil {
			_ = connection.Close()
		}
	}()
	if err := AskPreStop(t.Context(), path); err == nil {
		t.Error("a closed connection counts as an answer")
	}
}

func TestPreStopSocketThatFails(t *testing.T) {
	if err := ServePreStop(t.Context(), deafListener{}, func() {}, logr.Discard()); err == nil || !strings.Contains(err.Error(), "preStop socket") {
		t.Errorf("got %v", err)
	}
	if _, err := ListenPreStop(filepath.Join(t.TempDir(), "missing", PreStopSocket)); err == nil {
		t.Error("a socket in a folder that does not exist")
	}
}

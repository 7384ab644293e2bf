package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/snakepit-k8s/snakepit/router/admin"
)

// `router prestop` reaches the router of the same state directory, and says when there is none.
func TestPreStopCommand(t *testing.T) {
	dir := t.TempDir()
	if err := prestop([]string{"--state-dir=" + dir}); err == nil {
		t.Error("no router, and the hook succeeds")
	}
	listener, err := admin.ListenPreStop(filepath.Join(dir, admin.PreStopSocket))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	drained, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- admin.ServePreStop(ctx, listener, func() { close(drained) }, logr.Discard())
	}()
	if err := prestop([]string{"--state-dir=" + dir}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-drained:
	case <-time.After(10 * time.Second):
		t.Error("not drained")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := prestop([]string{"--other"}); err == nil {
		t.Error("an unknown flag is taken")
	}
}

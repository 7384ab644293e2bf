package faults

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

var (
	server  *fixture.APIServer
	watcher *audit
)

func TestMain(m *testing.M) {
	if fixture.Assets() == "" {
		fmt.Println("left out: crash at every write needs a real API server; to run it: make faults")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run has one API server, one kubelet and one audit for all points.
func run(m *testing.M) (code int, err error) {
	// What a crashed operator says about its lost connection is no news.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	before := goleak.IgnoreCurrent()
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() {
		err = errors.Join(err, server.Stop())
		if err == nil && code == 0 {
			err = goleak.Find(before)
		}
	}()
	if watcher, err = startAudit(server.Config); err != nil {
		return 1, err
	}
	kubelet, err := fixture.StartKubelet(server.Config, "")
	if err != nil {
		return 1, errors.Join(err, watcher.Stop())
	}
	code = m.Run()
	for _, line := range summary {
		fmt.Println(line)
	}
	return code, errors.Join(kubelet.Stop(), watcher.Stop())
}

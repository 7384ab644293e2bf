package leader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

var (
	server *fixture.APIServer
	binary string
)

func TestMain(m *testing.M) {
	if fixture.Assets() == "" {
		fmt.Println("left out: the change of leader needs a real API server; to run it: make faults")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "snakepit-leader-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "manager")
	if err := fixture.BuildOperator(fixture.Root(), binary); err != nil {
		return 1, err
	}
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, errors.Join(server.Stop(), report(code))
}

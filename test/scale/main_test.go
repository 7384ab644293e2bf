package scale

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
	server     *fixture.APIServer
	kubeconfig string
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	code, err := 0, error(nil)
	switch config := os.Getenv(envKubeconfig); {
	case config != "":
		err = runOperator(config, os.Getenv(envNamespace), os.Stdin, os.Stdout)
	case fixture.Assets() == "":
		fmt.Println("left out: the cost of many pools needs a real API server; to run it: make scale")
	default:
		code, err = run(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	folder, err := os.MkdirTemp("", "snakepit-scale-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	kubeconfig = filepath.Join(folder, "kubeconfig")
	if err := os.WriteFile(kubeconfig, server.Kubeconfig(), 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

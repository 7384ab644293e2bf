package scale

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

var (
	server     *fixture.APIServer
	kubeconfig string
)

func TestMain(m *testing.M) {
	if config := os.Getenv(envKubeconfig); config != "" {
		fixture.Exit("scale", func() (int, error) { return 0, runOperator(config, os.Getenv(envNamespace), os.Stdin, os.Stdout) })
	}
	fixture.Main("the cost of many pools", "make scale", func() (int, error) {
		return fixture.InFolder(func(dir string) (int, error) { return run(m, dir) })
	})
}

func run(m *testing.M, dir string) (code int, err error) {
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, server.Kubeconfig(), 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

package leader

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

var (
	server *fixture.APIServer
	binary string
)

func TestMain(m *testing.M) {
	fixture.Main("the change of leader", "make faults", func() (int, error) { return fixture.InFolder(func(dir string) (int, error) { return run(m, dir) }) })
}

func run(m *testing.M, dir string) (code int, err error) {
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

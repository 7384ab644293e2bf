package upgrade

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// earlier is the commit of the old operator unless UPGRADE_FROM names another: the last before the operator watched nodes.
const earlier = "3e1f8fb"

var (
	server *fixture.APIServer
	// from is the old commit; oldCRDs its folder of CRDs; oldBinary and newBinary the two operators.
	from, oldCRDs, oldBinary, newBinary string
)

func TestMain(m *testing.M) {
	fixture.Main("an upgrade", "make faults", func() (int, error) {
		if from = os.Getenv("UPGRADE_FROM"); from == "" {
			from = earlier
		}
		if err := exec.Command("git", "-C", fixture.Root(), "cat-file", "-e", from+"^{commit}").Run(); err != nil {
			fmt.Printf("left out: the upgrade from %s: the checkout does not hold this commit; to run it: git fetch --unshallow, or UPGRADE_FROM=commit\n", from)
			return 0, nil
		}
		return fixture.InFolder(func(dir string) (int, error) { return run(m, dir) })
	})
}

func run(m *testing.M, dir string) (code int, err error) {
	source := filepath.Join(dir, "source")
	if err := checkout(source); err != nil {
		return 1, err
	}
	oldCRDs = filepath.Join(source, "config", "crd", "bases")
	oldBinary, newBinary = filepath.Join(dir, "old"), filepath.Join(dir, "new")
	if err := errors.Join(fixture.BuildOperator(source, oldBinary), fixture.BuildOperator(fixture.Root(), newBinary)); err != nil {
		return 1, err
	}
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, server.Stop()
}

// checkout puts the old commit's files into a folder, apart from this checkout and its git state.
func checkout(folder string) error {
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	archive := folder + ".tar"
	if out, err := exec.Command("git", "-C", fixture.Root(), "archive", "--output="+archive, from).CombinedOutput(); err != nil {
		return fmt.Errorf("git archive: %w: %s", err, out)
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", folder).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return nil
}

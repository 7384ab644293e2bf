package apiserver

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

// Prometheus itself scrapes an operator and a router that run, and answers the queries of config/monitoring. Its engine is no dependency of the
// product: it runs in the module test/monitoring.
func TestScrape(t *testing.T) {
	s := beginAlone(t)
	kubelet, err := standin.StartKubelet(server.Config, s.namespace)
	s.must(err)
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	reader := s.account("prometheus")
	operator := s.installed()
	s.mayScrape(reader)
	s.ready(s.pool("scraped", 1))
	router := s.lonelyRouter()
	token := filepath.Join(t.TempDir(), "token")
	s.must(os.WriteFile(token, []byte(s.token(reader)), 0o600))
	test := exec.CommandContext(s.ctx, "go", "-C", filepath.Join(fixture.Root(), "test", "monitoring"), "test", "-count=1", "-v", "-run", "^TestScrape$", ".")
	test.Env = append(os.Environ(), "SCRAPE_OPERATOR="+strings.TrimSuffix(strings.TrimPrefix(operator, "https://"), "/metrics"),
		"SCRAPE_ROUTER="+router, "SCRAPE_TOKEN="+token)
	out, err := test.CombinedOutput()
	if err == nil && !strings.Contains(string(out), "--- PASS: TestScrape") {
		err = errors.New("it did not run")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// lonelyRouter runs a router without a cluster and without workers, and gives the address of its metrics.
func (s *scene) lonelyRouter() string {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "spk") // a socket's path is short
	s.must(err)
	binary, admin := filepath.Join(dir, "router"), s.freeAddress()
	build := exec.Command("go", "build", "-o", binary, "./router")
	build.Dir = fixture.Root()
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("building the router: %v: %s", err, out)
	}
	spec := "poolName: demo\nrevision: r1\nimage: none\nadapter: none:None\nworkers: 0\n"
	s.must(os.WriteFile(filepath.Join(dir, "pool.yaml"), []byte(spec), 0o600))
	router := exec.Command(binary, "--config", filepath.Join(dir, "pool.yaml"), "--listen", s.freeAddress(), "--admin-listen", admin,
		"--bridge-socket", filepath.Join(dir, "b.sock"), "--state-dir", dir)
	s.must(router.Start())
	s.t.Cleanup(func() {
		_ = router.Process.Kill() // it may have ended
		_ = router.Wait()
		s.must(os.RemoveAll(dir))
	})
	fixture.Eventually(s.t, limit, "the router's metrics", func() error {
		answer, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
	return admin
}

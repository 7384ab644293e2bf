package membership

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// eventually polls until the condition holds; deadline long enough for a slow machine.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

type adoption struct {
	group *v1alpha1.WorkerGroup
	stale bool
}

// adopterLog keeps what was adopted.
type adopterLog struct {
	mu  sync.Mutex
	all []adoption
}

func (a *adopterLog) Adopt(group *v1alpha1.WorkerGroup, stale bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, adoption{group, stale})
}

func (a *adopterLog) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all)
}

func (a *adopterLog) last() adoption {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) == 0 {
		return adoption{}
	}
	return a.all[len(a.all)-1]
}

// lines is a log that can be read back.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, prefix+" "+args)
	}, funcr.Options{Verbosity: 1})
}

func (l *lines) containing(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for _, line := range l.all {
		if strings.Contains(line, text) {
			count++
		}
	}
	return count
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

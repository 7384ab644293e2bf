package membership

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

type fileFixture struct {
	path    string
	clock   *clocktesting.FakeClock
	adopter *adopterLog
	log     *lines
}

// startFile runs a File on content until the test ends.
func startFile(t *testing.T, content string) *fileFixture {
	t.Helper()
	f := &fileFixture{path: filepath.Join(t.TempDir(), "pool.yaml"), clock: clocktesting.NewFakeClock(time.Unix(1000, 0)),
		adopter: &adopterLog{}, log: &lines{}}
	write(t, f.path, content)
	source, err := NewFile(FileConfig{Path: f.path, Adopter: f.adopter, Clock: f.clock, Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "first adoption", func() bool { return f.adopter.count() == 1 && f.clock.HasWaiters() })
	return f
}

// until steps the clock until the condition holds.
func (f *fileFixture) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		f.clock.Step(pollInterval)
		return holds()
	})
}

func TestFileIsFollowed(t *testing.T) {
	f := startFile(t, "workers: 2\n")
	first := f.adopter.last()
	if first.stale || first.group.Spec.Workers != 2 || first.group.Name != "local" || first.group.Generation != 1 || first.group.Spec.Queue.MaxLength != 1000 {
		t.Fatalf("adopted %+v", first)
	}
	write(t, f.path, "workers: 5\n")
	f.until(t, "adoption of the change", func() bool { return f.adopter.count() == 2 })
	if last := f.adopter.last(); last.group.Spec.Workers != 5 || last.group.Generation != 2 {
		t.Errorf("adopted %+v", last.group)
	}
}

func TestBadEditKeepsTheLastGoodVersion(t *testing.T) {
	f := startFile(t, "workers: 2\n")
	write(t, f.path, "workers: many\n")
	f.until(t, "the log says why", func() bool { return f.log.containing("whole number") > 0 })
	for range 5 {
		f.clock.Step(pollInterval)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.until(t, "the log says that it is gone", func() bool { return f.log.containing("cannot be read") > 0 })
	write(t, f.path, "workers: 3\n")
	f.until(t, "healing", func() bool { return f.adopter.count() == 2 })
	if f.adopter.last().group.Spec.Workers != 3 {
		t.Errorf("adopted %+v", f.adopter.last().group)
	}
	if f.log.containing("whole number") != 1 || f.log.containing("cannot be read") != 1 {
		t.Errorf("told more than once: %v", f.log.all)
	}
}

// A version that is seen only once may be half of one.
func TestHalfWrittenFileIsNotAdopted(t *testing.T) {
	f := &File{config: FileConfig{Path: filepath.Join(t.TempDir(), "pool.yaml"), Adopter: &adopterLog{}, Log: (&lines{}).logger()}}
	adopted := f.config.Adopter.(*adopterLog)
	for _, content := range []string{"workers: 1", "workers: 16", "workers: 160"} {
		write(t, f.config.Path, content)
		f.look()
	}
	if adopted.count() != 0 {
		t.Fatalf("adopted %+v while it was being written", adopted.last().group.Spec)
	}
	if f.look(); adopted.count() != 1 || adopted.last().group.Spec.Workers != 160 {
		t.Fatalf("a settled file is not adopted: %d", adopted.count())
	}
	if f.look(); adopted.count() != 1 {
		t.Error("adopted twice")
	}
	// A change that is taken back before it settled is none.
	write(t, f.config.Path, "workers: 3")
	f.look()
	write(t, f.config.Path, "workers: 160")
	f.look()
	write(t, f.config.Path, "workers: 3")
	if f.look(); adopted.count() != 1 {
		t.Error("a version that was seen twice, but not in a row, is adopted")
	}
}

func TestBadFirstFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pool.yaml")
	_, err := NewFile(FileConfig{Path: path, Adopter: &adopterLog{}})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing file: %v", err)
	}
	write(t, path, "workers: -1\n")
	_, err = NewFile(FileConfig{Path: path, Adopter: &adopterLog{}})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "between 0 and 256") {
		t.Errorf("bad file: %v", err)
	}
	write(t, path, strings.Repeat("#", maxDocument+1))
	if _, err = NewFile(FileConfig{Path: path, Adopter: &adopterLog{}}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("huge file: %v", err)
	}
	if _, err = NewFile(FileConfig{Path: path}); err == nil {
		t.Error("a source without an adopter is made")
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/snakepit-k8s/snakepit/hack/bench/report"
)

// pythonVersions prints one line for each thing whose version matters.
const pythonVersions = `import platform, grpc, google.protobuf
from google.protobuf.internal import api_implementation
print(platform.python_version())
print(grpc.__version__)
print(google.protobuf.__version__ + " (" + api_implementation.Type() + ")")`

// about notes machine, versions and settings.
func (s *session) about(ctx context.Context) error {
	python, err := output(ctx, s.options.python, "-c", pythonVersions)
	if err != nil {
		return fmt.Errorf("the Python environment is not complete (make venv): %w", err)
	}
	versions := strings.Split(python, "\n")
	if len(versions) != 3 {
		return fmt.Errorf("versions of Python: %q", python)
	}
	if s.result.Commit, err = commit(ctx, "HEAD"); err != nil {
		return err
	}
	dirty, err := output(ctx, "git", "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return err
	}
	if dirty != "" {
		s.result.Commit += "+"
	}
	add := func(name, value string) {
		s.result.About = append(s.result.About, report.Pair{Name: name, Value: value})
	}
	add("commit", s.result.Commit)
	if s.options.baseline != "" {
		earlier, err := commit(ctx, s.options.baseline)
		if err != nil {
			return err
		}
		add("earlier commit", earlier)
	}
	add("date", time.Now().UTC().Format(time.DateOnly))
	add("machine", fmt.Sprintf("%d cores, %s, client included", runtime.NumCPU(), memoryOf()))
	add("kernel", kernel())
	add("Go", strings.TrimPrefix(runtime.Version(), "go"))
	add("grpc-go", grpc.Version)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "google.golang.org/protobuf" {
				add("protobuf-go", strings.TrimPrefix(dep.Version, "v"))
			}
		}
	}
	add("CPython", versions[0])
	add("grpcio", versions[1])
	add("protobuf", versions[2])
	add("repeats", fmt.Sprint(s.options.repeats))
	add("each measurement", fmt.Sprintf("%s after %s of warm-up", s.window, warm))
	return nil
}

func commit(ctx context.Context, name string) (string, error) {
	return output(ctx, "git", "rev-parse", "--short=12", name+"^{commit}")
}

// output of a short command, without the white space around it.
func output(ctx context.Context, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	var problem strings.Builder
	command.Stderr = &problem
	text, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(problem.String()))
	}
	return strings.TrimSpace(string(text)), nil
}

func memoryOf() string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "memory unknown"
	}
	var kib float64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %f kB", &kib); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.0f GiB", kib/mib)
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	release, _, _ := strings.Cut(strings.TrimSpace(string(text)), "-")
	return "Linux " + release
}

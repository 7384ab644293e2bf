package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Tree is a checkout of ours with what was built from it.
type Tree struct {
	// Root folder of the checkout.
	Root string
	// Router is the binary that was built there.
	Router string
	// Servers is the folder with the Python servers of the benchmark.
	Servers string
	// Python is the interpreter, with grpcio and protobuf as locked.
	Python string
}

// environment of a Python process: nothing of the user's.
func (t Tree) environment(folder string, more ...string) []string {
	path := t.Servers + string(os.PathListSeparator) + filepath.Join(t.Root, "worker-image", "src")
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "PYTHONDONTWRITEBYTECODE=1",
		"PYTHONPATH=" + path}, more...)
}

// folder for a system; it is short, because the path of a unix socket is bounded by 108 bytes.
func folder() (string, error) { return os.MkdirTemp("", "spb") }

// Plain starts so many processes of a plain grpcio server, each with an address of its own. mode is sync or aio; threads counts for sync.
func Plain(ctx context.Context, t Tree, name, mode string, threads, count int) (*System, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	s := &System{Name: name, folder: dir}
	args := []string{filepath.Join(t.Servers, "direct.py"), mode}
	if mode == "sync" {
		args = append(args, strconv.Itoa(threads))
	}
	for i := range count {
		c, err := start(dir, fmt.Sprintf("%s-%d", mode, i), t.environment(dir), t.Python, args...)
		if err != nil {
			return nil, errors.Join(err, s.Stop())
		}
		s.workers = append(s.workers, c)
		address, err := listening(ctx, c)
		if err != nil {
			return nil, errors.Join(err, s.Stop())
		}
		s.Addresses = append(s.Addresses, address)
	}
	return s, nil
}

// Script starts one of the Python servers that print `listening PORT`, with the interpreter of the tree and without our package.
func Script(ctx context.Context, t Tree, name, file string) (*System, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	s := &System{Name: name, folder: dir}
	environment := []string{"PATH=" + filepath.Dir(t.Python) + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + dir, "PYTHONDONTWRITEBYTECODE=1"}
	c, err := start(dir, name, environment, t.Python, filepath.Join(t.Servers, file))
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	c.limit = scriptEndLimit
	s.workers = []*child{c}
	address, err := listening(ctx, c)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.Addresses = []string{address}
	return s, nil
}

// Floor starts the grpc-go echo of this program.
func Floor(ctx context.Context, name string) (*System, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	s := &System{Name: name, folder: dir}
	c, err := start(dir, "floor", nil, self, "--serve-floor")
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.router = []*child{c}
	address, err := listening(ctx, c)
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.Addresses = []string{address}
	return s, nil
}

var portLine = regexp.MustCompile(`(?m)^listening (\d+)$`)

// listening waits for the line with the port.
func listening(ctx context.Context, c *child) (address string, err error) {
	err = c.until(ctx, "it listened", func() (bool, error) {
		found := portLine.FindStringSubmatch(c.output())
		if found == nil {
			return false, nil
		}
		address = "127.0.0.1:" + found[1]
		return true, nil
	})
	return address, err
}

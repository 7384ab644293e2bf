package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// Cache is the folder that all checkouts of a user share.
type Cache struct {
	// Dir is the folder itself.
	Dir string
	// Progress receives a line for each thing that must be made first.
	Progress io.Writer
}

// DefaultCache is SNAKEPIT_CACHE, else .cache/snakepit in the home folder.
func DefaultCache(progress io.Writer) (Cache, error) {
	dir := os.Getenv("SNAKEPIT_CACHE")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Cache{}, fmt.Errorf("no home folder for the cache (%w): set SNAKEPIT_CACHE to a folder", err)
		}
		dir = filepath.Join(home, ".cache", "snakepit")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cache{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Cache{}, fmt.Errorf("no cache folder (%w): set SNAKEPIT_CACHE to a folder that you may write to", err)
	}
	return Cache{Dir: dir, Progress: progress}, nil
}

// An Item is one thing in the cache.
type Item struct {
	// Path is the folder that holds it.
	Path string
	// Key changes when anything it is made from changes.
	Key string
	// Cached says that it was there already.
	Cached bool
}

// run runs one step of making something. Its output is shown only when it
// fails: the programs of others say hundreds of lines when all is well.
func (c Cache) run(command *exec.Cmd) error {
	output, err := command.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed; on Debian: apt-get install %[1]s", command.Args[0])
	}
	if err != nil {
		_, _ = c.Progress.Write(output)
		return fmt.Errorf("%s: %w (its output is above)", filepath.Base(command.Path), err)
	}
	return nil
}

// item gives the folder of kind and key, and lets make fill it when it is not
// there. A second program that wants the same waits and then finds it.
func (c Cache) item(kind, key string, make func(dir string) error) (Item, error) {
	result := Item{Path: filepath.Join(c.Dir, kind, key), Key: key, Cached: true}
	if _, err := os.Stat(result.Path); err == nil {
		return result, nil
	}
	if err := os.MkdirAll(filepath.Dir(result.Path), 0o755); err != nil {
		return result, err
	}
	unlock, err := lock(filepath.Join(c.Dir, kind, "lock"))
	if err != nil {
		return result, err
	}
	defer unlock()
	if _, err := os.Stat(result.Path); err == nil {
		return result, nil
	}
	// Under the lock, whatever has the temporary name is left from a crash.
	temporary := filepath.Join(c.Dir, kind, "new")
	if err := os.RemoveAll(temporary); err != nil {
		return result, err
	}
	if err := os.Mkdir(temporary, 0o755); err != nil {
		return result, err
	}
	fmt.Fprintf(c.Progress, "making %s %s\n", kind, key)
	if err := make(temporary); err != nil {
		return result, errors.Join(err, os.RemoveAll(temporary))
	}
	result.Cached = false
	return result, os.Rename(temporary, result.Path)
}

func lock(path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock on %s: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// key hashes texts and the files of folders, whose names and content count but
// not their place.
func key(texts []string, folders ...string) (string, error) {
	hash := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(hash, "text %d %s\n", len(text), text)
	}
	for _, folder := range folders {
		paths, err := sources(folder)
		if err != nil {
			return "", err
		}
		for _, path := range paths {
			content, err := os.ReadFile(filepath.Join(folder, path))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(hash, "file %s %d\n", path, len(content))
			hash.Write(content)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// sources lists the files of a folder that a build reads, tests left out.
func sources(folder string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := entry.Name()
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") || name == "go.mod" || name == "go.sum" {
			relative, err := filepath.Rel(folder, path)
			if err != nil {
				return err
			}
			paths = append(paths, relative)
		}
		return nil
	})
	sort.Strings(paths)
	return paths, err
}

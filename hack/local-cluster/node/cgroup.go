package node

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A hierarchy is one mounted cgroup tree.
type hierarchy struct {
	mount   string
	unified bool
}

// hierarchies lists the cgroup trees of this machine: one on pure cgroup v2,
// one for each controller on v1, both on a hybrid.
func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []hierarchy
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if h, ok := parseHierarchy(lines.Text()); ok {
			found = append(found, h)
		}
	}
	if len(found) == 0 && lines.Err() == nil {
		return nil, errors.New("no cgroup file system is mounted under /sys/fs/cgroup")
	}
	return found, lines.Err()
}

func parseHierarchy(mountinfo string) (hierarchy, bool) {
	mount, fileSystem, ok := strings.Cut(mountinfo, " - ")
	fields := strings.Fields(mount)
	if !ok || len(fields) < 5 || !strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
		return hierarchy{}, false
	}
	kind, _, _ := strings.Cut(fileSystem, " ")
	return hierarchy{mount: fields[4], unified: kind == "cgroup2"}, kind == "cgroup" || kind == "cgroup2"
}

// The folder in which the node's own programs run, beside the kubelet's: cgroup
// v2 allows no process in a folder whose children have controllers.
const programsFolder = "node"

// enterCgroups makes the cluster's folder in every hierarchy and moves this
// process, and with it all that it will start, there.
func enterCgroups(root string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		parent := tree.mount
		for _, name := range []string{strings.Trim(root, "/"), programsFolder} {
			if tree.unified {
				delegateControllers(parent)
			}
			folder := filepath.Join(parent, name)
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := inheritCpuset(parent, folder); err != nil {
				return err
			}
			parent = folder
		}
		if err := os.WriteFile(filepath.Join(parent, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("entering the cgroup %s: %w", parent, err)
		}
	}
	return nil
}

// delegateControllers lets children of a cgroup v2 folder have the controllers
// it has itself. One that cannot be given is left out: the kubelet names what
// it misses better than this could.
func delegateControllers(folder string) {
	available, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, controller := range strings.Fields(string(available)) {
		_ = os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// inheritCpuset fills in a new cpuset folder (v1 leaves it empty, and then no
// process can enter it).
func inheritCpuset(parent, folder string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil || strings.TrimSpace(string(value)) != "" {
			continue // not a cpuset hierarchy, or filled in already
		}
		inherited, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil || strings.TrimSpace(string(inherited)) == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, file), inherited, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// CgroupFolders lists the cluster's folder in each hierarchy that has one.
func (c Config) CgroupFolders() ([]string, error) {
	trees, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, tree := range trees {
		folder := filepath.Join(tree.mount, c.CgroupRoot())
		if _, err := os.Stat(folder); err == nil {
			folders = append(folders, folder)
		}
	}
	return folders, nil
}

// Thaw lets frozen containers of the cluster run again: a process frozen by
// cgroup v1 cannot be killed.
func (c Config) Thaw() error {
	folders, err := c.CgroupFolders()
	if err != nil {
		return err
	}
	for _, folder := range folders {
		for _, child := range below(folder) {
			state := filepath.Join(child, "freezer.state")
			if now, err := os.ReadFile(state); err == nil && strings.TrimSpace(string(now)) != "THAWED" {
				if err := os.WriteFile(state, []byte("THAWED"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	return nil
}

// RemoveCgroups removes the cluster's folders. The kernel refuses while a
// process is still on its way out, so it tries until the deadline.
func (c Config) RemoveCgroups(deadline time.Time) error {
	for {
		folders, err := c.CgroupFolders()
		if err != nil || len(folders) == 0 {
			return err
		}
		var last error
		for _, folder := range folders {
			children := below(folder)
			for i := len(children) - 1; i >= 0; i-- {
				if err := syscall.Rmdir(children[i]); err != nil && err != syscall.ENOENT {
					last = fmt.Errorf("cgroup folder %s: %w", children[i], err)
				}
			}
		}
		if last == nil {
			continue
		}
		if time.Now().After(deadline) {
			return last
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// below lists a folder and all folders in it, parents first. Folders vanish
// while it walks; those are left out.
func below(folder string) []string {
	var all []string
	_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	return all
}

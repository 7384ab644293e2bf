package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// Processes lists all live processes of the cluster as the host numbers them:
// those in its cgroup folders, and a first process that has not come so far.
func (c Config) Processes() ([]int, error) {
	folders, err := c.CgroupFolders()
	if err != nil {
		return nil, err
	}
	found := map[int]bool{}
	for _, folder := range folders {
		for _, child := range below(folder) {
			for _, pid := range pidsIn(child) {
				found[pid] = true
			}
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, path := range commands {
		if command, err := os.ReadFile(path); err == nil && c.isFirstProcess(string(command)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				return nil, err
			}
			found[pid] = true
		}
	}
	var pids []int
	for pid := range found {
		if !ended(pid) {
			pids = append(pids, pid)
		}
	}
	sort.Ints(pids)
	return pids, nil
}

func (c Config) isFirstProcess(cmdline string) bool {
	return cmdline == strings.Join([]string{c.Path("bin", "local-cluster"), "node", c.Dir, ""}, "\x00")
}

// ended says that a process is gone or only waits for its parent to notice.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat[strings.LastIndex(string(stat), ")"):]), " ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

func pidsIn(folder string) []int {
	content, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, line := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Process is one process of a container, numbered as the host does.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// Container is one container of the node (or the sandbox of a pod) with its
// processes. ID is empty for processes that are in a pod's cgroup folder but in
// none of its containers.
type Container struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	PodUID    string    `json:"podUID"`
	Name      string    `json:"name"`
	Processes []Process `json:"processes"`
}

var (
	containerFolder = regexp.MustCompile(`^[0-9a-f]{64}$`)
	podFolder       = regexp.MustCompile(`^pod[0-9a-f-]{32,36}$`)
)

// Containers lists every container that has a process left. root is the node's
// root file system as the host sees it.
func (c Config) Containers(root string) ([]Container, error) {
	folder, err := c.podsFolder()
	if err != nil {
		return nil, err
	}
	found := map[string]*Container{}
	for _, path := range below(folder) {
		pids := pidsIn(path)
		if len(pids) == 0 {
			continue
		}
		id, uid := owner(strings.TrimPrefix(path, folder))
		key := uid + "/" + id
		if found[key] == nil {
			found[key] = &Container{ID: id, PodUID: uid}
			found[key].describe(root)
		}
		for _, pid := range pids {
			if !ended(pid) {
				found[key].Processes = append(found[key].Processes, Process{PID: pid, Command: commandOf(pid)})
			}
		}
	}
	result := []Container{}
	for _, each := range found {
		if len(each.Processes) > 0 {
			result = append(result, *each)
		}
	}
	sort.Slice(result, func(i, j int) bool { return result[i].ID < result[j].ID })
	return result, nil
}

// podsFolder is the kubelet's folder in the hierarchy that always knows every
// process: pids on cgroup v1, the only one on v2.
func (c Config) podsFolder() (string, error) {
	folders, err := c.CgroupFolders()
	if err != nil {
		return "", err
	}
	for _, folder := range folders {
		pods := filepath.Join(folder, "kubepods")
		if _, err := os.Stat(pods); err == nil {
			return pods, nil
		}
	}
	return "", errors.New("the kubelet has made no cgroup folder; is the node Ready?")
}

// owner reads container and pod from a path of cgroup folders.
func owner(path string) (id, podUID string) {
	for _, name := range strings.Split(path, "/") {
		switch {
		case containerFolder.MatchString(name):
			id = name
		case podFolder.MatchString(name):
			podUID = strings.TrimPrefix(name, "pod")
		}
	}
	return id, podUID
}

func commandOf(pid int) string {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
}

// TaskFolder is where containerd keeps a running container's bundle.
func TaskFolder(root, id string) string {
	return filepath.Join(root, "run/containerd/io.containerd.runtime.v2.task/k8s.io", id)
}

// MainProcess gives the host's number of a container's first process; the error
// is fs.ErrNotExist when the node has no such container.
func MainProcess(root, id string) (int, error) {
	if !containerFolder.MatchString(id) {
		return 0, fmt.Errorf("%q is no container id: 64 hex digits are, as in status.containerStatuses[].containerID after containerd://", id)
	}
	content, err := os.ReadFile(filepath.Join(TaskFolder(root, id), "init.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("no container %s runs on the node: %w", id, err)
	}
	if err != nil {
		return 0, err
	}
	inside, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return 0, err
	}
	return hostPID(id, inside)
}

// hostPID finds the process of a container that the node numbers as inside.
func hostPID(id string, inside int) (int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		status, err := os.ReadFile(path)
		if err != nil || !numbered(string(status), inside) {
			continue
		}
		folder := filepath.Dir(path)
		cgroup, err := os.ReadFile(filepath.Join(folder, "cgroup"))
		if err == nil && strings.Contains(string(cgroup), "/"+id) {
			return strconv.Atoi(filepath.Base(folder))
		}
	}
	return 0, fmt.Errorf("the first process of container %s has ended", id)
}

// numbered says that a /proc/PID/status has the number in the second of its PID
// namespaces: the first is the host's, the second the node's.
func numbered(status string, inside int) bool {
	for _, line := range strings.Split(status, "\n") {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			numbers := strings.Fields(list)
			return len(numbers) >= 2 && numbers[1] == strconv.Itoa(inside)
		}
	}
	return false
}

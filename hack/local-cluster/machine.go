package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// stateRoot holds one folder for each cluster of this machine.
const stateRoot = "/var/lib/snakepit-local-cluster"

// place says which cluster is meant, and where its checkout is.
type place struct {
	source   string // this module
	checkout string
	name     string
}

// A name becomes a node's name, a cgroup folder and a part of socket paths,
// which may have 107 characters.
var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$`)

func here() (place, error) {
	source, err := os.Getwd()
	if err != nil {
		return place{}, err
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return place{}, err
	}
	if _, err := os.Stat(filepath.Join(source, "kubernetes", "go.mod")); err != nil {
		return place{}, refuse("run it from the checkout: go -C hack/local-cluster run . VERB")
	}
	p := place{source: source, checkout: filepath.Dir(filepath.Dir(source))}
	p.name, err = clusterName(p.checkout, os.Getenv("CLUSTER_NAME"))
	return p, err
}

// clusterName is the wanted name, else one that is the checkout's own.
func clusterName(checkout, wanted string) (string, error) {
	if wanted == "" {
		sum := sha256.Sum256([]byte(checkout))
		return "spk-" + hex.EncodeToString(sum[:3]), nil
	}
	if !validName.MatchString(wanted) {
		return "", refuse("CLUSTER_NAME=%q: use at most 30 lower case letters, digits and dashes, a letter first", wanted)
	}
	return wanted, nil
}

func (p place) dir() string { return filepath.Join(stateRoot, p.name) }

// usesCurrent says that the user's own cluster is meant, not one of ours.
func usesCurrent() (bool, error) {
	switch value := os.Getenv("CLUSTER"); value {
	case "", "local":
		return false, nil
	case "current":
		return true, nil
	default:
		return false, refuse("CLUSTER=%q is not known: leave it unset for a local cluster, or set CLUSTER=current for the current context of your kubeconfig", value)
	}
}

// lockState keeps all others from bringing a cluster up or down on this machine
// until the returned function is called. The lock is on the folder itself, so
// that it leaves no file.
func lockState() (func(), error) {
	for {
		if err := os.MkdirAll(stateRoot, 0o755); err != nil {
			return nil, err
		}
		folder, err := os.Open(stateRoot)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for err = syscall.EINTR; err == syscall.EINTR; {
			err = syscall.Flock(int(folder.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			return nil, errors.Join(err, folder.Close())
		}
		// The holder before may have removed the folder.
		locked, err := folder.Stat()
		if err != nil {
			return nil, errors.Join(err, folder.Close())
		}
		if now, err := os.Stat(stateRoot); err == nil && os.SameFile(locked, now) {
			return func() { _ = folder.Close() }, nil
		}
		_ = folder.Close()
	}
}

// firstProcess identifies the first process of a node, also when its pid has
// been given to another process meanwhile.
type firstProcess struct {
	PID int `json:"pid"`
	// Start is the time of its start, in the kernel's ticks since boot.
	Start string `json:"start"`
	// Boot tells one run of the machine from the next.
	Boot string `json:"boot"`
}

func identify(pid int) (firstProcess, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return firstProcess{}, err
	}
	start, err := startTime(string(stat))
	if err != nil {
		return firstProcess{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return firstProcess{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, err
}

// startTime reads field 22 of /proc/PID/stat; a zombie counts as ended.
func startTime(stat string) (string, error) {
	// Field 2 is the program's name in parentheses, with any characters in it.
	after := stat[strings.LastIndex(stat, ")")+1:]
	fields := strings.Fields(after)
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/PID/stat has an unknown form: %q", stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}

func (f firstProcess) alive() bool {
	now, err := identify(f.PID)
	return err == nil && now == f
}

func saveFirstProcess(dir string, f firstProcess) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "init.json"), data, 0o600)
}

// running gives the configuration and the first process of the cluster; ok is
// false when it does not run.
func running(dir string) (config node.Config, first firstProcess, ok bool) {
	config, err := node.Load(dir)
	if err != nil {
		return config, first, false
	}
	data, err := os.ReadFile(filepath.Join(dir, "init.json"))
	if err != nil || json.Unmarshal(data, &first) != nil {
		return config, first, false
	}
	return config, first, first.alive()
}

// mustRun is running for verbs that need a cluster.
func mustRun() (node.Config, firstProcess, error) {
	p, err := here()
	if err != nil {
		return node.Config{}, firstProcess{}, err
	}
	if current, err := usesCurrent(); err != nil || current {
		return node.Config{}, firstProcess{}, errors.Join(err, refuseCurrent(current))
	}
	if os.Geteuid() != 0 {
		return node.Config{}, firstProcess{}, refuse("only root may look into the node; run it as root")
	}
	config, first, ok := running(p.dir())
	if !ok {
		return config, first, fmt.Errorf("the cluster %s does not run; bring it up with: make cluster-up", p.name)
	}
	return config, first, nil
}

func refuseCurrent(current bool) error {
	if !current {
		return nil
	}
	return refuse("this works on a local cluster only, not with CLUSTER=current")
}

// freeBytes is the space left on the disk of a folder, or of its nearest
// ancestor that exists.
func freeBytes(folder string) (uint64, error) {
	for {
		var stat syscall.Statfs_t
		err := syscall.Statfs(folder, &stat)
		if err == nil {
			return stat.Bavail * uint64(stat.Bsize), nil
		}
		if err != syscall.ENOENT || folder == "/" {
			return 0, fmt.Errorf("free space of %s: %w", folder, err)
		}
		folder = filepath.Dir(folder)
	}
}

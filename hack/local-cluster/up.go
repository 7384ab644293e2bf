package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/build"
)

const (
	neededBytes = 10 << 30

	// Limits of one wait each, generous for a machine busy with other things.
	apiLimit  = 2 * time.Minute
	nodeLimit = 2 * time.Minute
	dnsLimit  = 2 * time.Minute
)

// Debian packages the node needs, each with a file that shows it is there.
var debianPackages = []struct{ name, file string }{
	{"containerd", "/usr/bin/containerd"},
	{"runc", "/usr/sbin/runc"},
	{"containernetworking-plugins", "/usr/lib/cni/ptp"},
	{"iptables", "/usr/sbin/iptables"},
	{"nftables", "/usr/sbin/nft"},
	{"iproute2", "/sbin/ip"},
	{"conntrack", "/usr/sbin/conntrack"},
	{"ethtool", "/sbin/ethtool"},
	{"socat", "/usr/bin/socat"},
	{"debootstrap", "/usr/sbin/debootstrap"},
	{"buildah", "/usr/bin/buildah"},
	{"util-linux", "/usr/bin/nsenter"},
	{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
}

// made is what "up" has built or found in the cache.
type made struct {
	kubernetes, coredns, pause, python build.Item
}

func up(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return refuse("up takes no arguments; name another cluster with CLUSTER_NAME, ask for two nodes with NODES=2")
	}
	nodes, err := wantedNodes()
	if err != nil {
		return err
	}
	if current, err := usesCurrent(); err != nil || current {
		if err == nil {
			err = showCurrent(ctx)
		}
		return err
	}
	p, err := here()
	if err != nil {
		return err
	}
	s := newSteps(os.Stdout)
	fmt.Fprintf(s.out, "local cluster %s\n", p.name)
	var m made
	if err := p.prepare(s, &m); err != nil {
		return err
	}
	unlock, err := lockState()
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.bringUp(ctx, s, m, nodes); err != nil {
		return err
	}
	kubeconfig := p.shownKubeconfig()
	fmt.Fprintf(s.out, "ready after %.1fs\n\n  export KUBECONFIG=%s\n  %s get pods -A\n",
		time.Since(s.start).Seconds(), kubeconfig, filepath.Join(filepath.Dir(kubeconfig), "bin", "kubectl"))
	return nil
}

// prepare checks the machine and makes all that goes into a cluster.
func (p place) prepare(s steps, m *made) error {
	if err := s.do("machine", p.checkMachine); err != nil {
		return err
	}
	if err := s.do("Debian packages", installPackages); err != nil {
		return err
	}
	cache, err := build.DefaultCache(s)
	if err != nil {
		return err
	}
	for _, each := range []struct {
		name string
		item *build.Item
		make func() (build.Item, error)
	}{
		{"Kubernetes binary", &m.kubernetes, func() (build.Item, error) { return cache.Kubernetes(filepath.Join(p.source, "kubernetes")) }},
		{"CoreDNS", &m.coredns, func() (build.Item, error) { return cache.CoreDNS(filepath.Join(p.source, "coredns")) }},
		{"pause image", &m.pause, func() (build.Item, error) { return cache.Pause(p.source) }},
		{"Python base image", &m.python, cache.Python},
	} {
		err := s.do(each.name, func() (string, error) {
			item, err := each.make()
			*each.item = item
			if item.Cached {
				return "cached", err
			}
			return "built", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p place) checkMachine() (string, error) {
	if runtime.GOOS != "linux" {
		return "", refuse("a local cluster needs Linux; with a cluster of your own use CLUSTER=current")
	}
	if os.Geteuid() != 0 {
		return "", refuse("a local cluster needs root: run it with sudo -E, or use a cluster of your own with CLUSTER=current")
	}
	cache, err := build.DefaultCache(os.Stderr)
	if err != nil {
		return "", err
	}
	for _, folder := range []string{stateRoot, cache.Dir} {
		free, err := freeBytes(folder)
		if err != nil {
			return "", err
		}
		if free < neededBytes {
			return "", refuse("%s has %.1f GB free and a local cluster needs %d: free some, or move the cache with SNAKEPIT_CACHE",
				folder, float64(free)/(1<<30), neededBytes>>30)
		}
	}
	return "", nil
}

// installPackages installs what is missing and nothing else.
func installPackages() (string, error) {
	var missing []string
	for _, each := range debianPackages {
		if _, err := os.Stat(each.file); err != nil {
			missing = append(missing, each.name)
		}
	}
	if len(missing) == 0 {
		return "all there", nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", refuse("missing on this machine, which has no apt-get: %s; install them, or use CLUSTER=current", strings.Join(missing, " "))
	}
	for _, args := range [][]string{
		{"update", "-q", "-o", "DPkg::Lock::Timeout=300"},
		append([]string{"install", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends"}, missing...),
	} {
		command := exec.Command("apt-get", args...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, tail(string(output), 15))
		}
	}
	return "installed " + strings.Join(missing, " "), nil
}

// assets makes the Kubernetes binary alone: no root, no packages, no cluster.
func assets(_ context.Context, _ []string) error {
	p, err := here()
	if err != nil {
		return err
	}
	cache, err := build.DefaultCache(os.Stderr)
	if err != nil {
		return err
	}
	item, err := cache.Kubernetes(filepath.Join(p.source, "kubernetes"))
	if err != nil {
		return err
	}
	fmt.Println(item.Path)
	return nil
}

// pythonBase makes the Python base image alone, for builds of worker images.
func pythonBase(_ context.Context, _ []string) error {
	cache, err := build.DefaultCache(os.Stderr)
	if err != nil {
		return err
	}
	item, err := cache.Python()
	if err != nil {
		return err
	}
	fmt.Println(filepath.Join(item.Path, "python-base.tar"))
	return nil
}

// tail gives the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// bringUp starts the node when it does not run, and then whatever is missing.
func (p place) bringUp(ctx context.Context, s steps, m made, nodes int) error {
	config, first, err := p.startNode(s, m, nodes)
	if err != nil {
		return err
	}
	api, err := newAPI(config)
	if err != nil {
		return err
	}
	alive := func(ready func() error) func() error {
		return func() error {
			if !first.alive() {
				return errors.New("the node has ended; see " + config.Log("node"))
			}
			return ready()
		}
	}
	for _, step := range []struct {
		name string
		run  func() (string, error)
	}{
		{"API server", func() (string, error) { return config.Server(), wait(ctx, apiLimit, alive(api.ready)) }},
		{"pause and CoreDNS images", func() (string, error) {
			return importMissing(ctx, config, []image{
				pauseImage(m),
				{build.ImageName("coredns", m.coredns.Key), filepath.Join(m.coredns.Path, "coredns.tar")},
			})
		}},
		{"node Ready", func() (string, error) {
			return "", wait(ctx, nodeLimit, alive(func() error { return api.nodeReady(config) }))
		}},
		{"CoreDNS manifests", func() (string, error) {
			return "", applyDNS(config, build.ImageName("coredns", m.coredns.Key))
		}},
		{"Python base image in the node", func() (string, error) {
			return importMissing(ctx, config, []image{pythonImage(m)})
		}},
		// Last, as CoreDNS starts while the large image above is imported.
		{"cluster DNS", func() (string, error) { return "", wait(ctx, dnsLimit, alive(api.dnsReady)) }},
		{"links in .cluster", func() (string, error) { return p.link(config) }},
	} {
		if err := s.do(step.name, step.run); err != nil {
			return fmt.Errorf("%s: %w (logs: %s)", step.name, err, config.Path("log"))
		}
	}
	return p.bringUpSecond(ctx, s, m, config, first, api)
}

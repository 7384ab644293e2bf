package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/build"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/hostlink"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/pki"
)

//go:embed manifests/coredns.yaml
var dnsManifest string

// startNode starts the node's first process, unless it runs. What a dead node
// or a start that was broken off has left is removed first.
func (p place) startNode(s steps, m made, nodes int) (node.Config, firstProcess, error) {
	config, first, ok := running(p.dir())
	if ok {
		if hostlink.Connected(config) {
			if err := checkNodes(config, nodes); err != nil {
				return config, first, err
			}
			return config, first, s.do("node", func() (string, error) { return runsNote(config, first, m), nil })
		}
	}
	if err := s.do("remains of a former cluster", func() (string, error) { return removeAll(p) }); err != nil {
		return config, first, err
	}
	err := s.do("node", func() (string, error) {
		var err error
		config, err = p.newConfig(m, max(nodes, 1))
		if err != nil {
			return "", err
		}
		if err := p.furnish(config, m); err != nil {
			return "", err
		}
		first, err = launch(config, func(pid int) error { return hostlink.Connect(config, pid) })
		return fmt.Sprintf("pid %d", first.PID), err
	})
	if err != nil {
		_, undo := removeAll(p)
		err = errors.Join(err, undo)
	}
	return config, first, err
}

// runsNote says that the node runs, and whether it is the one this checkout
// would start.
func runsNote(config node.Config, first firstProcess, m made) string {
	note := fmt.Sprintf("runs (pid %d)", first.PID)
	if config.Kubernetes != m.kubernetes.Key {
		note += ", with another Kubernetes build; to renew it: make cluster-down cluster-up"
	}
	return note
}

// newConfig chooses the addresses and, by saving them, reserves them.
func (p place) newConfig(m made, nodes int) (node.Config, error) {
	used, err := hostlink.UsedRanges(stateRoot)
	if err != nil {
		return node.Config{}, err
	}
	network, err := hostlink.Choose(p.name, used)
	if err != nil {
		return node.Config{}, err
	}
	config := node.Config{
		Name: p.name, Nodes: nodes, Dir: p.dir(), Network: network,
		PauseImage: build.ImageName("pause", m.pause.Key), Kubernetes: m.kubernetes.Key,
	}
	if err := makeFolders(config, "", "bin", "log", "etc"); err != nil {
		return config, err
	}
	return config, config.Save()
}

func makeFolders(config node.Config, names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(config.Path(name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// furnish fills the cluster's folder: programs, certificates, configuration.
func (p place) furnish(config node.Config, m made) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := copyFile(self, config.Path("bin", "local-cluster")); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(m.kubernetes.Path, "kubernetes"), config.Path("bin", "kubernetes")); err != nil {
		return err
	}
	if err := linkPrograms(config); err != nil {
		return err
	}
	if err := issueCertificates(config); err != nil {
		return err
	}
	return config.WriteFiles()
}

// linkPrograms gives the one Kubernetes binary the names by which it chooses.
func linkPrograms(config node.Config) error {
	for _, program := range build.Programs {
		if err := os.Symlink("kubernetes", config.Path("bin", program)); err != nil {
			return err
		}
	}
	return nil
}

func issueCertificates(config node.Config) error {
	authority, err := pki.NewAuthority(config.Path("pki"), config.Name, time.Now())
	if err != nil {
		return err
	}
	nodeIP, serviceIP := net.ParseIP(config.Network.NodeIP), net.ParseIP(config.Network.ServiceIP)
	subjects := map[string]pki.Subject{
		"apiserver": {
			CommonName: "kube-apiserver",
			DNSNames:   []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
			IPs:        []net.IP{nodeIP, serviceIP, net.IPv4(127, 0, 0, 1)},
		},
		"apiserver-client":        {CommonName: "kube-apiserver", Organizations: []string{"system:masters"}},
		"admin":                   {CommonName: "admin", Organizations: []string{"system:masters"}},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"kubelet":                 kubeletSubject(config),
		"kubelet-2":               kubeletSubject(config.Second()),
	}
	for name, subject := range subjects {
		if err := authority.Issue(name, subject); err != nil {
			return err
		}
	}
	if err := authority.IssueKeyPair("service-account"); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"admin": "kubeconfig", "kubelet": "kubelet.kubeconfig", "kubelet-2": "kubelet-2.kubeconfig", "kube-proxy": "kube-proxy.kubeconfig",
		"kube-scheduler": "kube-scheduler.kubeconfig", "kube-controller-manager": "kube-controller-manager.kubeconfig",
	} {
		if err := authority.WriteKubeconfig(config.Path(path), config.Name, config.Server(), name); err != nil {
			return err
		}
	}
	return nil
}

func kubeletSubject(config node.Config) pki.Subject {
	return pki.Subject{
		CommonName: "system:node:" + config.NodeName(), Organizations: []string{"system:nodes"},
		DNSNames: []string{config.NodeName()}, IPs: []net.IP{net.ParseIP(config.NodeIP())},
	}
}

// launch starts the first process of a node in namespaces of its own, has
// connect give it its end of the network, and lets it go on.
func launch(config node.Config, connect func(pid int) error) (firstProcess, error) {
	log, err := os.Create(config.Log("node"))
	if err != nil {
		return firstProcess{}, err
	}
	defer log.Close()
	input, start, err := os.Pipe()
	if err != nil {
		return firstProcess{}, err
	}
	defer input.Close()
	defer start.Close()
	command := exec.Command(config.Path("bin", "local-cluster"), "node", config.Dir)
	command.Stdin, command.Stdout, command.Stderr = input, log, log
	command.Env = []string{}
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{
		// Its own session: it outlives the shell that ran "up".
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := command.Start(); err != nil {
		return firstProcess{}, fmt.Errorf("first process of the node: %w", err)
	}
	pid := command.Process.Pid
	first, err := identify(pid)
	if err == nil {
		err = saveFirstProcess(config.Dir, first)
	}
	if err == nil {
		err = connect(pid)
	}
	if err == nil {
		_, err = start.WriteString(node.Go)
	}
	if err != nil {
		return first, errors.Join(err, command.Process.Kill(), command.Process.Release())
	}
	return first, command.Process.Release()
}

func applyDNS(config node.Config, imageName string) error {
	parsed, err := template.New("coredns").Parse(dnsManifest)
	if err != nil {
		return err
	}
	var manifest bytes.Buffer
	if err := parsed.Execute(&manifest, map[string]string{"DNS": config.Network.DNS, "Image": imageName, "Node": config.NodeName()}); err != nil {
		return err
	}
	command := exec.Command(config.Path("bin", "kubectl"), "--kubeconfig", config.Path("kubeconfig"),
		"apply", "--server-side", "--force-conflicts", "-f", "-")
	command.Stdin = &manifest
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, tail(string(output), 10))
	}
	return nil
}

// link shows kubeconfig and kubectl in the checkout, unless another cluster
// that is still there does.
func (p place) link(config node.Config) (string, error) {
	links := map[string]string{
		filepath.Join(p.checkout, ".cluster", "kubeconfig"):     config.Path("kubeconfig"),
		filepath.Join(p.checkout, ".cluster", "bin", "kubectl"): config.Path("bin", "kubectl"),
	}
	for path, target := range links {
		now, err := os.Readlink(path)
		if err == nil && now == target {
			continue
		}
		if _, other := os.Stat(now); err == nil && other == nil {
			return "left to the cluster they show", nil
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if err := os.Symlink(target, path); err != nil {
			return "", err
		}
	}
	return "", nil
}

// shownKubeconfig is the link in the checkout when it is this cluster's, else
// the file itself.
func (p place) shownKubeconfig() string {
	link, file := filepath.Join(p.checkout, ".cluster", "kubeconfig"), filepath.Join(p.dir(), "kubeconfig")
	if target, err := os.Readlink(link); err == nil && target == file {
		return link
	}
	return file
}

// unlink removes the links of this cluster from the checkout, and the folders
// that are then empty.
func (p place) unlink() error {
	folder := filepath.Join(p.checkout, ".cluster")
	for _, path := range []string{filepath.Join(folder, "kubeconfig"), filepath.Join(folder, "bin", "kubectl")} {
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, p.dir()+"/") {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for _, each := range []string{filepath.Join(folder, "bin"), folder} {
		// Only an empty folder goes; what the user has put there stays.
		_ = syscall.Rmdir(each)
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return errors.Join(err, target.Close())
	}
	return target.Close()
}

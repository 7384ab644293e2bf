package node

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed files
var files embed.FS

// Where each file of files/ lies inside the node.
var configPaths = map[string]string{
	"containerd.toml":     "etc/containerd.toml",
	"cni.conflist":        "var/lib/cni/conf/10-local-cluster.conflist",
	"kubelet.yaml":        "etc/kubelet.yaml",
	"kube-proxy.yaml":     "etc/kube-proxy.yaml",
	"authentication.yaml": "etc/authentication.yaml",
	"audit.yaml":          "etc/audit.yaml",
}

// WriteFiles writes the configuration files of the node's programs into the
// cluster's folder.
func (c Config) WriteFiles() error {
	for name, path := range configPaths {
		parsed, err := template.ParseFS(files, "files/"+name)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := parsed.Execute(&text, c); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(c.Path(path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(c.Path(path), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A component is one program that the node keeps running.
type component struct {
	name string
	args []string
	// after are probes that must all pass before each start.
	after []probe
}

// Components names the programs of the node, in the order of their start.
func (c Config) Components() []string {
	var names []string
	for _, c := range c.components() {
		names = append(names, c.name)
	}
	return names
}

func (c Config) components() []component {
	etcd := httpProbe("http://127.0.0.1:2381/readyz")
	api := httpProbe(c.Server() + "/readyz")
	runtime := socketProbe("/run/containerd/containerd.sock")
	worker := []component{
		{name: "containerd", args: []string{"--config", c.Path("etc", "containerd.toml")}},
		{name: "kubelet", args: []string{
			"--config=" + c.Path("etc", "kubelet.yaml"),
			"--kubeconfig=" + c.Path("kubelet.kubeconfig"),
			"--hostname-override=" + c.NodeName(),
			"--node-ip=" + c.NodeIP(),
			"--root-dir=/var/lib/kubelet",
		}, after: []probe{api, runtime}},
		{name: "kube-proxy", args: []string{"--config=" + c.Path("etc", "kube-proxy.yaml")}, after: []probe{api}},
	}
	if c.IsSecond {
		return worker
	}
	return append([]component{
		{name: "etcd", args: c.etcdArgs()},
		{name: "kube-apiserver", args: c.apiServerArgs(), after: []probe{etcd}},
		{name: "kube-controller-manager", args: c.controllerManagerArgs(), after: []probe{api}},
		{name: "kube-scheduler", args: c.schedulerArgs(), after: []probe{api}},
	}, worker...)
}

func (c Config) etcdArgs() []string {
	return []string{
		"--name=" + c.Name,
		"--data-dir=/var/lib/etcd",
		"--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		fmt.Sprintf("--initial-cluster=%s=http://127.0.0.1:2380", c.Name),
		"--listen-metrics-urls=http://127.0.0.1:2381",
		"--log-level=warn",
	}
}

func (c Config) apiServerArgs() []string {
	pki := func(name string) string { return c.Path("pki", name) }
	return []string{
		"--advertise-address=" + c.Network.NodeIP,
		"--bind-address=0.0.0.0",
		"--secure-port=6443",
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + c.Network.Services,
		"--client-ca-file=" + pki("ca.crt"),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("apiserver-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + pki("service-account.pub"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--authentication-config=" + c.Path("etc", "authentication.yaml"),
		"--authorization-mode=Node,RBAC",
		// Beside the programs' output; hack/audit-rbac reads it.
		"--audit-policy-file=" + c.Path("etc", "audit.yaml"),
		"--audit-log-path=" + c.Log("audit"),
		"--audit-log-maxsize=50",
		"--audit-log-maxbackup=3",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--profiling=false",
	}
}

func (c Config) controllerManagerArgs() []string {
	args := append(c.clientArgs("kube-controller-manager"),
		"--service-account-private-key-file="+c.Path("pki", "service-account.key"),
		"--root-ca-file="+c.Path("pki", "ca.crt"),
		"--cluster-signing-cert-file="+c.Path("pki", "ca.crt"),
		"--cluster-signing-key-file="+c.Path("pki", "ca.key"),
		"--use-service-account-credentials=true",
	)
	if c.Nodes > 1 {
		// Four of the kubelets' heartbeats (kubelet.yaml): tests need not wait
		// the usual 40 s for a node that was cut off.
		args = append(args, "--node-monitor-grace-period=12s", "--node-monitor-period=2s")
	}
	return args
}

func (c Config) schedulerArgs() []string { return c.clientArgs("kube-scheduler") }

// clientArgs are common to the two programs that only talk to the API server.
// With one of each, an election would cost writes and delay the start.
func (c Config) clientArgs(name string) []string {
	kubeconfig := c.Path(name + ".kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--profiling=false",
	}
}

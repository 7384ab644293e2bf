package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// The cluster of this test, beside whatever runs already.
const testCluster = "spk-down-test"

// TestDownLeavesNothing brings a cluster up beside the first, runs a pod that
// answers, and removes it: after an ordinary life, after its first process was
// killed, with two nodes of which one was cut off, and after a start that was
// broken off.
func TestDownLeavesNothing(t *testing.T) {
	if os.Getenv("SNAKEPIT_CLUSTER_TEST") != "1" {
		t.Skip("starts a cluster: run it as root with SNAKEPIT_CLUSTER_TEST=1")
	}
	if os.Geteuid() != 0 {
		t.Fatal("SNAKEPIT_CLUSTER_TEST=1 needs root")
	}
	d := newDriver(t)
	first := d.firstCluster()
	before := takeSnapshot(t)

	d.run("up")
	d.answeringPod()
	config, process, ok := running(d.dir())
	if !ok {
		t.Fatal("up ended well, but the node does not run")
	}
	inside := nodeProcesses(t, config)
	takeSnapshot(t).mustShow(t, before, "process", "interface", "route", "cgroup", "file")
	d.insideHas("nft list tables", "table ip kube-proxy")
	d.insideHas("cat /proc/self/mountinfo", "/var/lib/kubelet/pods/")

	// The first process dies, and all with it; up makes the cluster anew.
	if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, inside)
	d.fails("status", "has ended and left")
	t.Setenv("NODES", "2")
	d.run("up")
	d.run("status")
	inside = nodeProcesses(t, config)
	inside = append(inside, nodeProcesses(t, config.Second())...)
	d.cutAndReturn()
	d.run("node-cut")

	d.run("down")
	mustEnd(t, inside)
	takeSnapshot(t).mustEqual(t, before)
	d.run("down") // nothing to do is no error

	d.breakOffStart()
	d.run("down")
	takeSnapshot(t).mustEqual(t, before)
	if now := d.firstCluster(); now != first {
		t.Errorf("the cluster beside it was %q and is %q", first, now)
	}
}

// driver runs the verbs of a freshly built driver on the test's cluster.
type driver struct {
	t        *testing.T
	program  string
	checkout string
}

func newDriver(t *testing.T) driver {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	d := driver{t: t, program: filepath.Join(t.TempDir(), "local-cluster"), checkout: filepath.Dir(filepath.Dir(here))}
	if output, err := exec.Command("go", "build", "-o", d.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	t.Cleanup(func() {
		if output, err := d.command("down").CombinedOutput(); err != nil {
			t.Errorf("down at the end: %v\n%s", err, output)
		}
	})
	return d
}

func (d driver) dir() string { return filepath.Join(stateRoot, testCluster) }

func (d driver) command(args ...string) *exec.Cmd {
	command := exec.Command(d.program, args...)
	command.Env = append(os.Environ(), "CLUSTER_NAME="+testCluster, "CLUSTER=local")
	return command
}

func (d driver) run(args ...string) string {
	d.t.Helper()
	output, err := d.command(args...).CombinedOutput()
	d.t.Logf("%s\n%s", strings.Join(args, " "), output)
	if err != nil {
		d.t.Fatalf("%s: %v", args[0], err)
	}
	return string(output)
}

func (d driver) fails(verb, want string) {
	d.t.Helper()
	output, err := d.command(verb).CombinedOutput()
	if err == nil || !strings.Contains(string(output), want) {
		d.t.Fatalf("%s: %v, want an error with %q:\n%s", verb, err, want, output)
	}
}

func (d driver) insideHas(command, want string) {
	d.t.Helper()
	output, err := d.command(append([]string{"exec"}, strings.Fields(command)...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(output), want) {
		d.t.Errorf("%s inside the node does not show %q (%v):\n%s", command, want, err, output)
	}
}

// firstCluster is the first process of the checkout's own cluster, if it runs.
func (d driver) firstCluster() string {
	name, err := clusterName(d.checkout, "")
	if err != nil {
		d.t.Fatal(err)
	}
	_, process, ok := running(filepath.Join(stateRoot, name))
	return fmt.Sprint(process.PID, ok)
}

const answeringPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: web
    image: localhost/python:base
    imagePullPolicy: Never
    command: [python3, -m, http.server, "8000", -d, /usr/share]
    readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
  volumes: [{name: scratch, emptyDir: {medium: Memory}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
`

// answeringPod runs a pod and asks it from the host, through its Service.
func (d driver) answeringPod() {
	d.t.Helper()
	kubectl := func(input string, args ...string) string {
		d.t.Helper()
		program := filepath.Join(d.dir(), "bin", "kubectl")
		command := exec.Command(program, append([]string{"--kubeconfig", filepath.Join(d.dir(), "kubeconfig")}, args...)...)
		command.Stdin = strings.NewReader(input)
		output, err := command.CombinedOutput()
		if err != nil {
			d.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, output)
		}
		return string(output)
	}
	// The service account of a new namespace comes a moment after it.
	eventually(d.t, func() error {
		output, err := d.command("exec", "kubectl", "--kubeconfig", filepath.Join(d.dir(), "kubeconfig"), "get", "serviceaccount", "default").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
	kubectl(answeringPod, "apply", "-f", "-")
	kubectl("", "wait", "--for=condition=Ready", "--timeout=60s", "pod/web")
	address := kubectl("", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	client := http.Client{Timeout: 2 * time.Second}
	eventually(d.t, func() error {
		response, err := client.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("the pod answers %s", response.Status)
		}
		return nil
	})
}

// cutAndReturn takes the second node's network away until the cluster has seen
// it, and gives it back.
func (d driver) cutAndReturn() {
	d.t.Helper()
	d.run("node-cut")
	second := node.Config{Name: testCluster, Dir: d.dir()}.Second()
	eventually(d.t, func() error {
		output, err := d.command("status").CombinedOutput()
		if err == nil || !strings.Contains(string(output), second.NodeName()+" is not Ready") {
			return fmt.Errorf("status after node-cut: %v\n%s", err, output)
		}
		return nil
	})
	if pids, err := second.Processes(); err != nil || len(pids) < len(second.Components()) {
		d.t.Errorf("processes of the node that is cut off: %v, %v; want all of them", pids, err)
	}
	d.run("node-return")
	eventually(d.t, func() error {
		output, err := d.command("status").CombinedOutput()
		if err != nil {
			return fmt.Errorf("status after node-return: %w\n%s", err, output)
		}
		return nil
	})
}

// breakOffStart kills "up" at the moment the node's folder has a first process.
func (d driver) breakOffStart() {
	d.t.Helper()
	command := d.command("up")
	output, err := command.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, bufio.NewReader(output)) }()
	eventually(d.t, func() error {
		_, err := os.Stat(filepath.Join(d.dir(), "init.json"))
		return err
	})
	if err := command.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	_ = command.Wait()
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nodeProcesses are all processes of the cluster; there must be its programs,
// a shim and a pod among them.
func nodeProcesses(t *testing.T, config node.Config) []firstProcess {
	t.Helper()
	pids, err := config.Processes()
	if err != nil || len(pids) < len(config.Components()) {
		t.Fatalf("processes of the node: %v, %v; want more", pids, err)
	}
	var list []firstProcess
	for _, pid := range pids {
		if process, err := identify(pid); err == nil {
			list = append(list, process)
		}
	}
	return list
}

func mustEnd(t *testing.T, list []firstProcess) {
	t.Helper()
	eventually(t, func() error {
		for _, process := range list {
			if process.alive() {
				command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.PID))
				return fmt.Errorf("process %d is left: %s", process.PID, command)
			}
		}
		return nil
	})
}

// snapshot is what the machine has, by kind, that a cluster could leave.
type snapshot map[string]map[string]bool

// takeSnapshot looks at the whole machine, but leaves out what belongs to other
// clusters, which may come and go meanwhile.
func takeSnapshot(t *testing.T) snapshot {
	t.Helper()
	config := node.Config{Name: testCluster, Dir: filepath.Join(stateRoot, testCluster)}
	s := snapshot{}
	for kind, command := range map[string]string{
		"interface": "ip -o link", "address": "ip -o addr", "route": "ip route show table all",
		"mount": "cat /proc/self/mountinfo", "nft table": "nft list tables", "nft rule": "nft list ruleset",
		"namespace": "ls /run/netns", "file": "ls -d /var/lib/snakepit-local-cluster/" + testCluster + " /var/lib/* /run/* /etc/cni/* /var/log/pods /var/log/containers /opt/*",
	} {
		// A folder that is not there is no error: that is a state, too.
		output, _ := exec.Command("sh", "-c", command).Output()
		s[kind] = lines(string(output), config)
	}
	s["process"], s["cgroup"] = map[string]bool{}, map[string]bool{}
	for _, each := range []node.Config{config, config.Second()} {
		pids, err := each.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			s["process"][fmt.Sprint(pid)] = true
		}
		folders, err := each.CgroupFolders()
		if err != nil {
			t.Fatal(err)
		}
		for _, folder := range folders {
			s["cgroup"][folder] = true
		}
	}
	for _, path := range []string{config.Dir, filepath.Join(filepath.Dir(filepath.Dir(mustGetwd(t))), ".cluster")} {
		if target, err := os.Readlink(filepath.Join(path, "kubeconfig")); err == nil && strings.HasPrefix(target, config.Dir) {
			s["file"][path+" -> "+target] = true
		}
	}
	return s
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func lines(text string, config node.Config) map[string]bool {
	set := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		others := strings.Contains(line, "spk") && !strings.Contains(line, config.HostInterface()) && !strings.Contains(line, testCluster)
		if line != "" && !others {
			set[line] = true
		}
	}
	return set
}

func (s snapshot) mustEqual(t *testing.T, before snapshot) {
	t.Helper()
	for kind, entries := range s {
		for entry := range entries {
			// The folder of all clusters stays while another has something in it.
			if !before[kind][entry] && entry != stateRoot {
				t.Errorf("%s left behind: %s", kind, entry)
			}
		}
	}
	if t.Failed() {
		data, _ := json.MarshalIndent(s, "", " ")
		t.Logf("the machine now: %s", data)
	}
}

// mustShow proves that the snapshot would see something left behind.
func (s snapshot) mustShow(t *testing.T, before snapshot, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		added := 0
		for entry := range s[kind] {
			if !before[kind][entry] {
				added++
			}
		}
		if added == 0 {
			t.Errorf("with the cluster up the snapshot shows no %s more than before, so it could not see one left behind", kind)
		}
	}
}

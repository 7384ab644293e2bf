package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const (
	containerID = "0d7b6fe5850a645ac4b36da8eba2a6781fab63385dba0fd7da2fb5a85738bc28"
	podUID      = "6ad02700-3430-41ac-abc0-f4c61ad158a5"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		Name: "spk-test", Dir: t.TempDir(), Network: NetworkIn(77),
		PauseImage: "localhost/pause:1", Kubernetes: "v1.37.2-0",
	}
}

func TestConfigSurvivesSaveAndLoad(t *testing.T) {
	saved := testConfig(t)
	if err := saved.Save(); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(saved.Dir)
	if err != nil || loaded != saved {
		t.Errorf("Load = %+v, %v; want %+v", loaded, err, saved)
	}
	if err := os.WriteFile(saved.Path("node.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(saved.Dir); err == nil || !strings.Contains(err.Error(), "node.json") {
		t.Errorf("a broken node.json gives %v; want an error that names the file", err)
	}
}

func TestFilesNameThisClusterOnly(t *testing.T) {
	config := testConfig(t)
	if err := config.WriteFiles(); err != nil {
		t.Fatal(err)
	}
	all := ""
	for name, path := range configPaths {
		content, err := os.ReadFile(config.Path(path))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "{{") || strings.Contains(string(content), "<no value>") {
			t.Errorf("%s is not filled in:\n%s", name, content)
		}
		all += string(content)
	}
	for _, want := range []string{config.PodRange(), config.Network.Pods, config.Network.DNS, config.CgroupRoot(), config.PauseImage} {
		if !strings.Contains(all, want) {
			t.Errorf("no file says %s", want)
		}
	}
	conflist, err := os.ReadFile(config.Path(configPaths["cni.conflist"]))
	if err != nil || !json.Valid(conflist) {
		t.Errorf("the CNI configuration is no JSON (%v):\n%s", err, conflist)
	}
}

func TestTheSecondNodeSharesNothingWithTheFirst(t *testing.T) {
	first := testConfig(t)
	second := first.Second()
	for what, values := range map[string][2]string{
		"name": {first.NodeName(), second.NodeName()}, "address": {first.NodeIP(), second.NodeIP()},
		"pods": {first.PodRange(), second.PodRange()}, "folder": {first.Dir, second.Dir},
		"cgroup": {first.CgroupRoot(), second.CgroupRoot()}, "socket": {first.Socket(), second.Socket()},
	} {
		if values[0] == values[1] {
			t.Errorf("both nodes have the %s %s", what, values[0])
		}
	}
	if second.Server() != first.Server() || strings.Contains(strings.Join(second.Components(), " "), "kube-apiserver") {
		t.Errorf("the second node has a control plane of its own: %s, %v", second.Server(), second.Components())
	}
	if len(first.All()) != 1 {
		t.Errorf("a cluster that was asked for without NODES has %d nodes", len(first.All()))
	}
	first.Nodes = 2
	if all := first.All(); len(all) != 2 || !all[1].IsSecond {
		t.Errorf("with two nodes All is %+v", all)
	}
}

// Only a cluster in which a node can be lost finds that out early.
func TestNodeLossIsFoundEarlyWithTwoNodesOnly(t *testing.T) {
	for nodes, want := range map[int]bool{1: false, 2: true} {
		config := testConfig(t)
		config.Nodes = nodes
		if err := config.WriteFiles(); err != nil {
			t.Fatal(err)
		}
		kubelet, err := os.ReadFile(config.Path(configPaths["kubelet.yaml"]))
		if err != nil {
			t.Fatal(err)
		}
		manager := strings.Join(config.controllerManagerArgs(), " ")
		if strings.Contains(string(kubelet), "nodeLeaseDurationSeconds") != want || strings.Contains(manager, "grace-period") != want {
			t.Errorf("with %d nodes: kubelet\n%s\ncontroller manager %s", nodes, kubelet, manager)
		}
	}
}

func TestHostInterfaceFitsTheKernel(t *testing.T) {
	for _, name := range []string{"a", "spk-123456", strings.Repeat("long", 7)} {
		if got := (Config{Name: name}).HostInterface(); len(got) > 15 {
			t.Errorf("%s: %q has more than 15 characters", name, got)
		}
	}
	if (Config{Name: "a"}).HostInterface() == (Config{Name: "b"}).HostInterface() {
		t.Error("two clusters have the same interface")
	}
}

func TestParseHierarchy(t *testing.T) {
	for line, want := range map[string]hierarchy{
		"30 24 0:26 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids": {mount: "/sys/fs/cgroup/pids"},
		"31 24 0:27 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw":                  {mount: "/sys/fs/cgroup", unified: true},
		"32 24 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755":                      {},
		"33 24 0:29 / /mnt/cgroup rw - cgroup2 cgroup2 rw":                              {},
		"broken": {},
	} {
		got, ok := parseHierarchy(line)
		if ok != (want != hierarchy{}) || ok && got != want {
			t.Errorf("parseHierarchy(%q) = %+v, %v; want %+v", line, got, ok, want)
		}
	}
}

func TestOwnerOfACgroupFolder(t *testing.T) {
	for path, want := range map[string][2]string{
		"/burstable/pod" + podUID + "/" + containerID:             {containerID, podUID},
		"/besteffort/pod" + podUID + "/" + containerID + "/child": {containerID, podUID},
		"/pod" + podUID: {"", podUID},
		"/besteffort":   {"", ""},
		"/podium/x":     {"", ""},
	} {
		id, uid := owner(path)
		if [2]string{id, uid} != want {
			t.Errorf("owner(%q) = %q, %q; want %q", path, id, uid, want)
		}
	}
}

func TestNumberedReadsTheNodesNumber(t *testing.T) {
	status := "Name:\tpython3\nPid:\t4711\nNSpid:\t4711\t42\t1\nThreads:\t1\n"
	if !numbered(status, 42) {
		t.Error("42 is the node's number of this process")
	}
	for _, other := range []int{4711, 1, 4, 0} {
		if numbered(status, other) {
			t.Errorf("%d is not the node's number of this process", other)
		}
	}
	if numbered("NSpid:\t4711\n", 4711) {
		t.Error("a process of the host has no number in the node")
	}
}

func TestMainProcessRefusesWhatIsNoContainerID(t *testing.T) {
	for _, id := range []string{"", "abc", "../../../etc", containerID + "0", strings.ToUpper(containerID)} {
		if _, err := MainProcess(t.TempDir(), id); err == nil || !strings.Contains(err.Error(), "is no container id") {
			t.Errorf("MainProcess(%q): %v; want to be told that it is no container id", id, err)
		}
	}
	if _, err := MainProcess(t.TempDir(), containerID); err == nil || !strings.Contains(err.Error(), "no container") {
		t.Errorf("MainProcess of an ended container: %v", err)
	}
}

func TestMountsAreGroupedByOwner(t *testing.T) {
	volume := "/var/lib/kubelet/pods/" + podUID + "/volumes/kubernetes.io~projected/token"
	rootfs := "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + containerID + "/rootfs"
	line := func(path string) string { return "9 8 0:7 / " + path + " rw,relatime shared:1 - tmpfs tmpfs rw" }
	got := parseMounts(strings.Join([]string{
		line("/"), line("/var"), line(volume), line(rootfs), line(volume), "broken",
		line("/var/lib/snakepit-local-cluster/spk-test" + rootfs),
	}, "\n"))
	want := []Mounts{{Container: containerID, Paths: []string{rootfs}}, {PodUID: podUID, Paths: []string{volume}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parseMounts = %+v; want %+v", got, want)
	}
}

func TestContainersAreDescribedByTheirBundle(t *testing.T) {
	root := t.TempDir()
	folder := TaskFolder(root, containerID)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	content := `{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-name":"web-0",
	  "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.container-name":"worker"}}`
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got := Container{ID: containerID}
	got.describe(root)
	want := Container{ID: containerID, Kind: "container", Namespace: "shop", Pod: "web-0", Name: "worker"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("described as %+v; want %+v", got, want)
	}
	gone := Container{ID: strings.Repeat("f", 64)}
	gone.describe(root)
	if gone.Pod != "" {
		t.Errorf("a container without a bundle is described as %+v", gone)
	}
}

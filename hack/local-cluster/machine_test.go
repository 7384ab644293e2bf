package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

func TestEachCheckoutHasItsOwnName(t *testing.T) {
	first, err := clusterName("/home/a/snakepit", "")
	if err != nil {
		t.Fatal(err)
	}
	again, _ := clusterName("/home/a/snakepit", "")
	second, _ := clusterName("/home/b/snakepit", "")
	if first != again || first == second {
		t.Errorf("names %q, %q, %q: want the first two equal and the third another", first, again, second)
	}
	if !validName.MatchString(first) {
		t.Errorf("%q would not be accepted as CLUSTER_NAME", first)
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, name := range []string{"A", "1a", "-a", "a-", "a_b", "a/b", "..", "a b", strings.Repeat("a", 31)} {
		if got, err := clusterName("/x", name); !errors.Is(err, errRefused) {
			t.Errorf("CLUSTER_NAME=%q gave %q, %v; want a refusal", name, got, err)
		}
	}
	for _, name := range []string{"a", "spk-2", strings.Repeat("a", 30)} {
		if got, err := clusterName("/x", name); err != nil || got != name {
			t.Errorf("CLUSTER_NAME=%q gave %q, %v; want it taken", name, got, err)
		}
	}
}

func TestBadNumbersOfNodesAreRefused(t *testing.T) {
	for _, text := range []string{"0", "3", "two", "-1", "1.5", " 2"} {
		t.Setenv("NODES", text)
		if got, err := wantedNodes(); !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "1 node or 2") {
			t.Errorf("NODES=%q gave %d, %v; want a refusal that says what may be", text, got, err)
		}
	}
	for text, want := range map[string]int{"": 0, "1": 1, "2": 2} {
		t.Setenv("NODES", text)
		if got, err := wantedNodes(); err != nil || got != want {
			t.Errorf("NODES=%q gave %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestARunningClusterKeepsItsNodes(t *testing.T) {
	config := node.Config{Name: "spk-x", Nodes: 1}
	for wanted, refused := range map[int]bool{0: false, 1: false, 2: true} {
		if err := checkNodes(config, wanted); errors.Is(err, errRefused) != refused {
			t.Errorf("one node runs and %d are wanted: %v", wanted, err)
		}
	}
}

func TestStartTimeOfOddlyNamedProcesses(t *testing.T) {
	tail := strings.Repeat(" 0", 18) + " 4711 0 0"
	for name, want := range map[string]string{
		"1 (sh) S" + tail:               "4711",
		"1 (a) b) (c) R" + tail:         "4711",
		"1 (gone) Z" + tail:             "",
		"1 (short) S 0 0":               "",
		"1 (paren in ) name ) S" + tail: "4711",
	} {
		got, err := startTime(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("startTime(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestAReusedPidIsNotTheFirstProcess(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.alive() {
		t.Error("this process is not alive")
	}
	for _, other := range []firstProcess{
		{PID: self.PID, Start: self.Start + "1", Boot: self.Boot},
		{PID: self.PID, Start: self.Start, Boot: "another boot"},
		{},
	} {
		if other.alive() {
			t.Errorf("%+v counts as alive, this process is %+v", other, self)
		}
	}
}

func TestAnEndedChildIsNotAlive(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := identify(child.Process.Pid)
	if err != nil || !first.alive() {
		t.Fatalf("the child is not alive: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if first.alive() {
		t.Error("the child counts as alive after its end")
	}
}

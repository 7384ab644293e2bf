package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const bases = "../../config/crd/bases"

// What is committed is trimmed already: trimming again changes nothing.
func TestCommittedAreTrimmed(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(bases, "*.yaml"))
	if err != nil || len(paths) != 2 {
		t.Fatalf("%v %v", paths, err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Trim(raw)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(raw) {
			t.Errorf("%s is not as crd-trim writes it; run make generate", path)
		}
	}
}

func TestTrim(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(bases, "snakepit.dev_workerpools.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd node
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		t.Fatal(err)
	}
	version := at(crd, "spec")["versions"].([]any)[0].(node)
	fields := at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties", "template", "properties", "spec", "properties")
	if fields["nodeSelector"].(node)["description"] == nil {
		t.Error("the first level has lost its descriptions: kubectl explain needs them")
	}
	ports := at(fields, "containers", "items", "properties", "ports")
	if ports["description"] != nil || ports["maxItems"] == nil {
		t.Errorf("ports keep their description or have no bound: %v", ports)
	}
}

// The live settings of a group are applied part by part; those of a pool may have several writers.
func TestAtomicParts(t *testing.T) {
	for file, want := range map[string]any{"snakepit.dev_workergroups.yaml": "atomic", "snakepit.dev_workerpools.yaml": nil} {
		raw, err := os.ReadFile(filepath.Join(bases, file))
		if err != nil {
			t.Fatal(err)
		}
		var crd node
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			t.Fatal(err)
		}
		version := at(crd, "spec")["versions"].([]any)[0].(node)
		fields := at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties")
		for _, part := range []string{"sessions", "queue", "calls", "startup", "cleanup"} {
			if got := at(fields, part)["x-kubernetes-map-type"]; got != want {
				t.Errorf("%s: %s is %v, want %v", file, part, got, want)
			}
		}
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, text := range []string{"{}", "spec: {names: {kind: X}, versions: [{schema: {}}]}", "\t"} {
		if _, err := Trim([]byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	huge := "spec: {names: {kind: WorkerGroup}, versions: [{schema: {openAPIV3Schema: {properties: {spec: {properties: {template: {}}}}}}, x: " + strings.Repeat("y", maxApplyBytes) + "}]}"
	if _, err := Trim([]byte(huge)); err == nil || !strings.Contains(err.Error(), "leave room in the annotation") {
		t.Errorf("too large a CRD: %v", err)
	}
}

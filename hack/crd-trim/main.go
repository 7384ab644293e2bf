// Crd-trim makes generated CRDs fit for plain `kubectl apply`: that command stores the whole object in one annotation of at most 262,144 bytes.
//
// It drops the descriptions of Kubernetes' own pod fields below spec.template (`kubectl explain pod.spec` has them), replaces the template of
// a WorkerGroup, which no user writes, by an open object, makes each part of its live settings atomic (the operator applies a part as a whole,
// and what is not in it any more must go, whoever wrote it), and bounds the lists and strings that CEL rules walk, so that their cost is known.
// It is not a general tool: it knows these two CRDs and fails when one does not look as expected.
package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// A schema node of a CRD, as decoded from YAML.
type node = map[string]any

// maxApplyBytes is the limit of all annotations of an object.
const maxApplyBytes = 262144

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: crd-trim FILE.yaml...")
		os.Exit(2)
	}
	for _, path := range os.Args[1:] {
		if err := trimFile(path); err != nil {
			fmt.Fprintf(os.Stderr, "crd-trim: %s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

func trimFile(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	trimmed, err := Trim(raw)
	if err != nil {
		return err
	}
	return os.WriteFile(path, trimmed, 0o644)
}

// Trim returns the CRD in raw, made small enough for client-side apply.
func Trim(raw []byte) ([]byte, error) {
	var crd node
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		return nil, err
	}
	kind, _ := at(crd, "spec", "names")["kind"].(string)
	versions, _ := at(crd, "spec")["versions"].([]any)
	if kind == "" || len(versions) == 0 {
		return nil, fmt.Errorf("not a CRD: spec.names.kind or spec.versions is missing")
	}
	for _, v := range versions {
		version, _ := v.(node)
		spec := at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties")
		template := at(spec, "template")
		if template == nil {
			return nil, fmt.Errorf("spec.template is not in the schema of %s", kind)
		}
		if kind == "WorkerGroup" {
			spec["template"] = node{
				"description":                          template["description"],
				"type":                                 "object",
				"x-kubernetes-preserve-unknown-fields": true,
			}
			for name, part := range spec {
				if part, ok := part.(node); ok && part["default"] != nil && part["type"] == "object" && name != "drain" {
					part["x-kubernetes-map-type"] = "atomic"
				}
			}
			continue
		}
		if err := trimTemplate(template); err != nil {
			return nil, err
		}
	}
	out, err := yaml.Marshal(crd)
	if err != nil {
		return nil, err
	}
	if asJSON, err := yaml.YAMLToJSON(out); err != nil || len(asJSON) > maxApplyBytes/2 {
		return nil, fmt.Errorf("%s is %d bytes of JSON after trimming, above the %d that leave room in the annotation: %w", kind, len(asJSON), maxApplyBytes/2, err)
	}
	return append([]byte("---\n"), out...), nil
}

// trimTemplate drops descriptions below the first two levels and bounds what CEL rules walk.
func trimTemplate(template node) error {
	podSpec := at(template, "properties", "spec")
	fields := at(podSpec, "properties")
	if fields == nil {
		return fmt.Errorf("spec.template.spec has no properties")
	}
	for _, field := range fields {
		if schema, ok := field.(node); ok {
			below(schema, dropDescription)
		}
	}
	for _, list := range []string{"containers", "initContainers"} {
		container := at(fields, list, "items", "properties")
		if container == nil {
			return fmt.Errorf("spec.template.spec.%s has no items", list)
		}
		boundContainer(container)
	}
	volume := at(fields, "volumes", "items", "properties")
	bound(volume, "name", "maxLength", 63)
	for _, key := range []string{"labels", "annotations"} {
		values := at(template, "properties", "metadata", "properties", key)
		if values == nil {
			return fmt.Errorf("spec.template.metadata.%s is missing", key)
		}
	}
	return nil
}

func boundContainer(container node) {
	bound(container, "name", "maxLength", 63)
	bound(container, "ports", "maxItems", 32)
	bound(container, "env", "maxItems", 256)
	bound(container, "envFrom", "maxItems", 32)
	bound(container, "volumeMounts", "maxItems", 64)
	bound(at(container, "env", "items", "properties"), "name", "maxLength", 256)
	mount := at(container, "volumeMounts", "items", "properties")
	bound(mount, "name", "maxLength", 63)
	bound(mount, "mountPath", "maxLength", 1024)
	added := at(container, "securityContext", "properties", "capabilities", "properties")
	bound(added, "add", "maxItems", 64)
	bound(added, "drop", "maxItems", 64)
}

// bound sets a limit on a property unless it has one.
func bound(properties node, name, limit string, value int) {
	if property, ok := properties[name].(node); ok && property[limit] == nil {
		property[limit] = value
	}
}

// at walks down maps; nil when the way ends early.
func at(from node, path ...string) node {
	for _, key := range path {
		next, ok := from[key].(node)
		if !ok {
			return nil
		}
		from = next
	}
	return from
}

// below calls visit on every schema inside this one, and not on the schema itself.
func below(schema node, visit func(node)) {
	children := make([]node, 0, 8)
	for _, child := range at(schema, "properties") {
		if c, ok := child.(node); ok {
			children = append(children, c)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if c, ok := schema[key].(node); ok {
			children = append(children, c)
		}
	}
	for _, child := range children {
		visit(child)
		below(child, visit)
	}
}

func dropDescription(schema node) {
	delete(schema, "description")
}

package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// pages are the documents that users read, by their path in the checkout.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(fixture.Root(), pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v %v", pattern, paths, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(fixture.Root(), path)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(text)
		}
	}
	return texts
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

// Every manifest on a page, and every part of a pool's manifest, is one that the API server takes.
func TestManifestsInDocs(t *testing.T) {
	found := 0
	for page, text := range pages(t) {
		for i, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			u, err := inDocs(block[1])
			if err != nil {
				t.Errorf("%s, block %d: %v", page, i+1, err)
			}
			if u == nil {
				continue
			}
			found++
			if err := server.Client.Create(t.Context(), u, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
				t.Errorf("%s, block %d: %v", page, i+1, err)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d manifests found", found)
	}
}

// inDocs makes a whole object of a block: some show a pool's spec, or fields of it. Blocks that are none of a cluster's give nil.
func inDocs(block string) (*unstructured.Unstructured, error) {
	var content map[string]any
	if err := yaml.UnmarshalStrict([]byte(block), &content); err != nil {
		return nil, err
	}
	if content["scrape_configs"] != nil { // test/monitoring has Prometheus read it
		return nil, nil
	}
	if content["apiVersion"] == nil {
		spec, whole := content["spec"].(map[string]any)
		if !whole {
			spec = content
		}
		for field, value := range map[string]any{"workers": 1, "image": "registry.example/works:1", "adapter": "app:App"} {
			if spec[field] == nil {
				spec[field] = value
			}
		}
		content = map[string]any{"apiVersion": "snakepit.dev/v1alpha1", "kind": "WorkerPool", "metadata": map[string]any{"name": "in-docs"}, "spec": spec}
	}
	text, err := yaml.Marshal(content)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, u); err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, text)
	}
	if u.GetNamespace() == "" {
		u.SetNamespace("default")
	}
	return u, nil
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	code    = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
)

// anchors are what GitHub makes of the headings of a page.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// Every link between pages leads to a file, and to a heading in it.
func TestLinksInDocs(t *testing.T) {
	all := pages(t)
	checked := 0
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			checked++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(filepath.Join(fixture.Root(), target)); err != nil {
				t.Errorf("%s: there is no %s", page, m[1])
			}
			if anchor != "" && !anchors(all[target])[anchor] {
				t.Errorf("%s: %s has no heading %s", page, target, anchor)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d links found", checked)
	}
}

// Every command of ours that a page names exists: targets of make, and folders of config.
func TestCommandsInDocs(t *testing.T) {
	root := fixture.Root()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	checked := 0
	for page, text := range pages(t) {
		for _, block := range commands(text) {
			for _, m := range regexp.MustCompile(`(?:^|[\s;&(])make ((?:[a-z][a-z0-9-]*[ \n]?|[A-Z_]+=\S+ ?)+)`).FindAllStringSubmatch(block, -1) {
				for _, word := range strings.Fields(m[1]) {
					checked++
					if !strings.Contains(word, "=") && !targets[word] {
						t.Errorf("%s: make %s: there is no target %s", page, m[1], word)
					}
				}
			}
			for _, m := range regexp.MustCompile(`-k (config/[a-z/-]+)`).FindAllStringSubmatch(block, -1) {
				checked++
				if _, err := os.Stat(filepath.Join(root, m[1], "kustomization.yaml")); err != nil {
					t.Errorf("%s: %v", page, err)
				}
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d commands found", checked)
	}
}

// commands are the code of a page: inline, fenced and indented.
func commands(text string) []string {
	var all []string
	all = append(all, regexp.MustCompile("(?m)^    .*$").FindAllString(text, -1)...)
	for _, c := range code.FindAllString(text, -1) {
		all = append(all, strings.Trim(c, "`"))
	}
	return all
}

// Every field of a pool that a page names by its path, such as drain.timeout, exists.
func TestFieldsInDocs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(fixture.Root(), "config/crd/bases/snakepit.dev_workerpools.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	type field struct {
		Type        string           `json:"type"`
		IntOrString bool             `json:"x-kubernetes-int-or-string"`
		Properties  map[string]field `json:"properties"`
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema field `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	checked := 0
	for page, text := range pages(t) {
		for _, m := range regexp.MustCompile("`(?:spec\\.)?([a-z][A-Za-z]+(?:\\.[a-z][A-Za-z]+)+)`").FindAllStringSubmatch(text, -1) {
			path := strings.Split(m[1], ".")
			if _, ours := spec.Properties[path[0]]; !ours {
				continue
			}
			checked++
			at := spec
			for _, name := range path {
				at = at.Properties[name]
			}
			if at.Type == "" && !at.IntOrString {
				t.Errorf("%s: there is no field %s", page, m[1])
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d fields found", checked)
	}
}

package apiserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// Each file of dist/ is whole: the API server takes every object of it, with no field that it does not know.
func TestDist(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixture.Root(), "dist", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no file in dist/ (%v)", err)
	}
	if err := ensureSystem(t.Context()); err != nil {
		t.Fatal(err)
	}
	strict := client.NewDryRunClient(client.WithFieldValidation(server.Client, metav1.FieldValidationStrict))
	for _, file := range files {
		kinds := map[string]int{}
		for _, obj := range distObjects(t, file) {
			kinds[obj.GetKind()]++
			if err := strict.Create(t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Errorf("%s: %s %s: %v", filepath.Base(file), obj.GetKind(), obj.GetName(), err)
			}
		}
		crds := 2
		if filepath.Base(file) == "install-namespaced.yaml" {
			crds = 0 // an administrator applies them
		}
		if kinds["Deployment"] != 1 || kinds["CustomResourceDefinition"] != crds {
			t.Errorf("%s has %v, want one Deployment and %d CRDs among them", filepath.Base(file), kinds, crds)
		}
	}
}

func distObjects(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		obj := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(document, &obj.Object); err != nil {
			t.Fatalf("%s: %v", filepath.Base(file), err)
		}
		all = append(all, obj)
	}
}

package apiserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
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
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "snakepit-system"}}
	if err := server.Client.Create(t.Context(), namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	strict := client.NewDryRunClient(client.WithFieldValidation(server.Client, metav1.FieldValidationStrict))
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			obj := &unstructured.Unstructured{}
			if err := yaml.UnmarshalStrict(document, &obj.Object); err != nil {
				t.Fatalf("%s: %v", filepath.Base(file), err)
			}
			kinds[obj.GetKind()]++
			if err := strict.Create(t.Context(), obj); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Errorf("%s: %s %s: %v", filepath.Base(file), obj.GetKind(), obj.GetName(), err)
			}
		}
		if kinds["Deployment"] != 1 || kinds["CustomResourceDefinition"] != 2 {
			t.Errorf("%s has %v, want one Deployment and two CRDs among them", filepath.Base(file), kinds)
		}
	}
}

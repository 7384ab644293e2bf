package membership

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// localPool is the pool's name when a file gives none: without Kubernetes nothing else is called by it.
const localPool = "local"

// decodeSpec reads the fields of WorkerGroup.spec from YAML or JSON, strictly, and fills in defaults. The error lists
// every bad field with its path. Only workers is required: image, adapter and revision concern a pod, and here is none.
func decodeSpec(document []byte) (*v1alpha1.WorkerGroupSpec, error) {
	if err := refuseSecondDocument(document); err != nil {
		return nil, err
	}
	written, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, fmt.Errorf("not valid YAML: %w", err)
	}
	var value any
	if err := utiljson.Unmarshal(written, &value); err != nil {
		return nil, fmt.Errorf("not valid YAML: %w", err)
	}
	fields, ok := value.(map[string]any)
	if !ok && value != nil {
		return nil, errors.New("the file must hold the fields of WorkerGroup.spec, for example: workers: 2")
	}
	if _, whole := fields["spec"]; whole {
		return nil, errors.New("the file holds a whole object: write only the fields of its spec, without apiVersion, kind, metadata and spec")
	}
	spec, err := specFrom(fields)
	if err != nil {
		return nil, err
	}
	fill(&spec.PoolName, localPool)
	return spec, nil
}

// specFrom checks and converts the fields of a spec, and fills in defaults.
func specFrom(fields map[string]any) (*v1alpha1.WorkerGroupSpec, error) {
	bad := checkLimits(fields)
	sound := runtime.DeepCopyJSON(orEmpty(fields))
	for _, problem := range bad {
		// What is known to be bad is taken out, so that the conversion reaches all other fields and finds unknown ones.
		path, _, _ := strings.Cut(problem.Field, "[")
		remove(sound, path)
	}
	spec := &v1alpha1.WorkerGroupSpec{}
	failures := problems(bad)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(sound, spec, true); err != nil {
		if strict, ok := runtime.AsStrictDecodingError(err); ok {
			failures = append(failures, strict.Errors()...)
		} else {
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return nil, listed(failures)
	}
	Default(spec)
	return spec, checkPairs(spec)
}

func problems(list field.ErrorList) []error {
	failures := make([]error, 0, len(list))
	for _, problem := range list {
		failures = append(failures, problem)
	}
	return failures
}

// listed joins failures in one line, because a log entry and a terminal show a line best.
func listed(failures []error) error {
	lines := make([]string, len(failures))
	for i, failure := range failures {
		lines[i] = failure.Error()
	}
	return fmt.Errorf("%d bad: %s", len(lines), strings.Join(lines, "; "))
}

func orEmpty(fields map[string]any) map[string]any {
	if fields == nil {
		return map[string]any{}
	}
	return fields
}

// refuseSecondDocument exists because the YAML decoder reads the first document and ignores all others without a word.
func refuseSecondDocument(document []byte) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(document)))
	count := 0
	for {
		part, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not valid YAML: %w", err)
		}
		if len(bytes.TrimSpace(part)) == 0 {
			continue
		}
		if count++; count > 1 {
			return errors.New("the file holds more than one YAML document: keep one")
		}
	}
}

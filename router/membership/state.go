package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const (
	groupKind = "WorkerGroup"
	stateFile = "group.json"
)

// saveGroup writes what a later start needs of the group, so that a crash at any point leaves the old or the new version.
func saveGroup(dir string, group *v1alpha1.WorkerGroup) error {
	kept := &v1alpha1.WorkerGroup{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: groupKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: group.Namespace, Name: group.Name, UID: group.UID,
			Generation: group.Generation, DeletionTimestamp: group.DeletionTimestamp},
		Spec: group.Spec,
	}
	document, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if len(document) > maxDocument {
		return fmt.Errorf("the spec has %d bytes, more than the %d that are kept", len(document), maxDocument)
	}
	return replaceFile(filepath.Join(dir, stateFile), document)
}

// replaceFile gives path a new content atomically. There is one writer, so the temporary name is fixed and what a crash
// left of it is overwritten.
func replaceFile(path string, content []byte) error {
	temporary := path + ".tmp"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	// The rename itself lives in the directory.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// loadGroup returns the group that was saved last, nil when none was, or an error that says why it cannot be used.
func loadGroup(dir, namespace, name string) (*v1alpha1.WorkerGroup, error) {
	document, err := readBounded(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	group := &v1alpha1.WorkerGroup{}
	var raw struct {
		Spec map[string]any `json:"spec"`
	}
	if err := json.Unmarshal(document, group); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	if err := utiljson.Unmarshal(document, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	if group.Namespace != namespace || group.Name != name || group.UID == "" || group.Kind != groupKind {
		return nil, fmt.Errorf("%s is about %s %s/%s, not about this router's group", stateFile, group.Kind, group.Namespace, group.Name)
	}
	spec, err := specFrom(raw.Spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	group.Spec = *spec
	return group, nil
}

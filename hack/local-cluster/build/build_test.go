package build

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func keyOf(t *testing.T, dir string) string {
	t.Helper()
	got, err := key([]string{"v1"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestKeyCountsSourcesOnlyAndNotTheirPlace(t *testing.T) {
	files := map[string]string{"go.mod": "module x", "main.go": "package main", "sub/a.go": "package sub"}
	first, second := write(t, t.TempDir(), files), write(t, t.TempDir(), files)
	base := keyOf(t, first)
	if keyOf(t, second) != base {
		t.Error("the same sources at another place have another key")
	}
	write(t, second, map[string]string{"main_test.go": "package main", "README": "text"})
	if keyOf(t, second) != base {
		t.Error("a test or a text changes the key")
	}
	write(t, second, map[string]string{"sub/a.go": "package sub // changed"})
	changed := keyOf(t, second)
	if changed == base {
		t.Error("a changed source does not change the key")
	}
	if other, _ := key([]string{"v2"}, first); other == base {
		t.Error("another text does not change the key")
	}
}

func TestAnItemIsMadeOnceForAll(t *testing.T) {
	cache := Cache{Dir: t.TempDir(), Progress: io.Discard}
	var made atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			item, err := cache.item("thing", "k1", func(dir string) error {
				made.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if content, err := os.ReadFile(filepath.Join(item.Path, "file")); err != nil || string(content) != "content" {
				t.Errorf("the item holds %q, %v", content, err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times; want once", made.Load())
	}
}

func TestAFailedItemLeavesNothingAndIsMadeAgain(t *testing.T) {
	cache := Cache{Dir: t.TempDir(), Progress: io.Discard}
	broken := errors.New("broken")
	if _, err := cache.item("thing", "k", func(dir string) error {
		write(t, dir, map[string]string{"half": "done"})
		return broken
	}); !errors.Is(err, broken) {
		t.Fatalf("item = %v; want the error of make", err)
	}
	if _, err := os.Stat(filepath.Join(cache.Dir, "thing", "k")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the failed item is there: %v", err)
	}
	// What a crash has left must not get into the next item.
	write(t, filepath.Join(cache.Dir, "thing", "new"), map[string]string{"half": "done"})
	item, err := cache.item("thing", "k", func(string) error { return nil })
	if err != nil || item.Cached {
		t.Fatalf("second try: %+v, %v", item, err)
	}
	if left, _ := os.ReadDir(item.Path); len(left) != 0 {
		t.Errorf("the item holds %v from before", left)
	}
}

func TestModuleVersion(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"go.mod": "module x\n\nrequire (\n\tk8s.io/other v0.1.0\n\tk8s.io/kubernetes v1.37.2 // why\n)\nrequire example.org/single v2.0.0\n",
	})
	for module, want := range map[string]string{"k8s.io/kubernetes": "v1.37.2", "example.org/single": "v2.0.0", "k8s.io/none": ""} {
		got, err := moduleVersion(dir, module)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("moduleVersion(%s) = %q, %v; want %q", module, got, err, want)
		}
	}
}

func TestVersionFlagsTellTheWholeVersion(t *testing.T) {
	flags := versionFlags("v1.37.2")
	for _, want := range []string{"version.gitVersion=v1.37.2 ", "version.gitMajor=1 ", "version.gitMinor=37 "} {
		if strings.Count(flags+" ", want) != 2 {
			t.Errorf("%q is not there for both packages: %s", want, flags)
		}
	}
}

func TestArchiveOfAProgram(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"pause": "a program"})
	if err := archiveProgram(dir, "pause", "k1"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "pause.tar" {
		t.Fatalf("the folder holds %v, %v; want pause.tar alone", left, err)
	}
	files := readTar(t, filepath.Join(dir, "pause.tar"))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest.json: %v: %s", err, files["manifest.json"])
	}
	if got := manifest[0].RepoTags; len(got) != 1 || got[0] != ImageName("pause", "k1") {
		t.Errorf("names %v; want %s", got, ImageName("pause", "k1"))
	}
	var config imageConfig
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	// containerd skips an image without these two and says nothing.
	if config.Architecture == "" || config.OS != "linux" {
		t.Errorf("architecture %q, os %q", config.Architecture, config.OS)
	}
	// A builder that adds a layer wants as many entries of history as layers.
	if len(config.History) != len(manifest[0].Layers) || len(config.RootFS.DiffIDs) != len(manifest[0].Layers) {
		t.Errorf("%d layers, %d in history, %d digests", len(manifest[0].Layers), len(config.History), len(config.RootFS.DiffIDs))
	}
	layer := tar.NewReader(bytes.NewReader(files[manifest[0].Layers[0]]))
	header, err := layer.Next()
	if err != nil || header.Name != "pause" || header.Mode != 0o755 {
		t.Errorf("the layer holds %+v, %v; want an executable pause", header, err)
	}
}

func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

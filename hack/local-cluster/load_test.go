package main

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// archiveWith writes a tar of the given files.
func archiveWith(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(out)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadArchiveNamesEveryImage(t *testing.T) {
	path := archiveWith(t, map[string]string{
		"layer.tar":     "some bytes",
		"manifest.json": `[{"Config":"a.json","RepoTags":["x/one:1","x/one:2"]},{"Config":"b.json","RepoTags":["x/two:1"]}]`,
	})
	got, err := readArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"x/one:1": "a.json", "x/one:2": "a.json", "x/two:1": "b.json"}
	if len(got) != len(want) {
		t.Fatalf("readArchive = %v; want %v", got, want)
	}
	for name, id := range want {
		if got[name] != id {
			t.Errorf("%s is %q; want %q", name, got[name], id)
		}
	}
}

func TestReadArchiveRefusesOtherFiles(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.tar")
	if err := os.WriteFile(text, []byte("no archive at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"not a tar":       text,
		"no manifest":     archiveWith(t, map[string]string{"a": "b"}),
		"broken manifest": archiveWith(t, map[string]string{"manifest.json": "{"}),
	} {
		if got, err := readArchive(path); !errors.Is(err, errRefused) {
			t.Errorf("%s: readArchive = %v, %v; want a refusal", name, got, err)
		}
	}
}

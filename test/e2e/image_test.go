package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// loadNextImage gives the cluster the worker image under a second name, …:next, as a new build of the user's would have.
func (s *story) loadNextImage() string { return s.loadAgain("next", nil) }

// loadNamedUserImage gives the cluster the worker image with USER app, a name that no number stands behind.
func (s *story) loadNamedUserImage() string {
	return s.loadAgain("named-user", func(config map[string]any) {
		inner, _ := config["config"].(map[string]any)
		inner["User"] = "app"
	})
}

// loadAgain gives the cluster the worker image under another tag, and with another configuration when edit is not nil.
func (s *story) loadAgain(tag string, edit func(config map[string]any)) string {
	s.t.Helper()
	name := strings.TrimSuffix(image("worker"), ":dev") + ":" + tag
	path := filepath.Join(s.t.TempDir(), tag+".tar")
	source, err := os.Open("../../bin/images/worker.tar")
	s.must(err)
	defer func() { _ = source.Close() }()
	target, err := os.Create(path)
	s.must(err)
	s.must(rewrite(source, target, func(file string, text []byte) ([]byte, error) {
		switch {
		case file == "manifest.json" || file == "repositories":
			return bytes.ReplaceAll(text, []byte(image("worker")), []byte(name)), nil
		case edit == nil || strings.Contains(file, "/"):
			return text, nil
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			return nil, err
		}
		edit(config)
		return json.Marshal(config)
	}))
	s.must(target.Close())
	if out, err := exec.Command("go", "-C", "../../hack/local-cluster", "run", ".", "load", path).CombinedOutput(); err != nil {
		s.t.Fatalf("loading %s: %v: %s", name, err, out)
	}
	return name
}

// rewrite copies a docker-archive; its texts pass through edit.
func rewrite(source io.Reader, target io.Writer, edit func(file string, text []byte) ([]byte, error)) error {
	in, out := tar.NewReader(source), tar.NewWriter(target)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		var content io.Reader = in
		if strings.HasSuffix(header.Name, ".json") || header.Name == "repositories" {
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			if text, err = edit(header.Name, text); err != nil {
				return err
			}
			header.Size = int64(len(text))
			content = bytes.NewReader(text)
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, content); err != nil {
			return err
		}
	}
}

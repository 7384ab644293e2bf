package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// loadNextImage gives the cluster the worker image under a second name, …:next, as a new build of the user's would have.
func (s *story) loadNextImage() string {
	s.t.Helper()
	next := strings.TrimSuffix(image("worker"), ":dev") + ":next"
	path := filepath.Join(s.t.TempDir(), "next.tar")
	source, err := os.Open("../../bin/images/worker.tar")
	s.must(err)
	defer func() { _ = source.Close() }()
	target, err := os.Create(path)
	s.must(err)
	s.must(retag(source, target, image("worker"), next))
	s.must(target.Close())
	if out, err := exec.Command("go", "-C", "../../hack/local-cluster", "run", ".", "load", path).CombinedOutput(); err != nil {
		s.t.Fatalf("loading %s: %v: %s", next, err, out)
	}
	return next
}

// retag copies a docker-archive with another name in its manifest.
func retag(source io.Reader, target io.Writer, from, to string) error {
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
		if header.Name == "manifest.json" || header.Name == "repositories" {
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			text = bytes.ReplaceAll(text, []byte(from), []byte(to))
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

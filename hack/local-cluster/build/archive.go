package build

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Part of the key of every image, to be changed with what archives look like.
const archiveFormat = "docker-archive 2"

// ImageName is the name of an image of ours in a cluster: its tag is its key,
// so that a node that has the name has this very build.
func ImageName(program, key string) string {
	return "localhost/snakepit-local/" + program + ":" + key
}

// imageConfig is what an image says of itself. Without architecture and os,
// containerd skips an image silently.
type imageConfig struct {
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Config       containerConfig `json:"config"`
	RootFS       rootFS          `json:"rootfs"`
	History      []historyEntry  `json:"history"`
}

// Builders that put a layer on top want one entry for each layer below.
type historyEntry struct {
	CreatedBy string `json:"created_by"`
}

type containerConfig struct {
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	User       string   `json:",omitempty"`
	Env        []string `json:",omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// archiveProgram makes of the static binary PROGRAM the image PROGRAM.tar.
func archiveProgram(dir, program, key string) error {
	binary, err := os.ReadFile(filepath.Join(dir, program))
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	if err := files.WriteHeader(&tar.Header{Name: program, Mode: 0o755, Size: int64(len(binary))}); err != nil {
		return err
	}
	if _, err := files.Write(binary); err != nil {
		return err
	}
	if err := files.Close(); err != nil {
		return err
	}
	layerPath := filepath.Join(dir, "layer.tar")
	if err := os.WriteFile(layerPath, layer.Bytes(), 0o644); err != nil {
		return err
	}
	config := containerConfig{Entrypoint: []string{"/" + program}, User: "65532:65532"}
	tags := []string{ImageName(program, key)}
	if err := writeArchive(filepath.Join(dir, program+".tar"), layerPath, config, tags); err != nil {
		return err
	}
	return errors.Join(os.Remove(layerPath), os.Remove(filepath.Join(dir, program)))
}

// writeArchive writes an image of one layer in the format of "docker save".
func writeArchive(path, layerPath string, config containerConfig, tags []string) error {
	layer, err := os.Open(layerPath)
	if err != nil {
		return err
	}
	defer layer.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, layer)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	described, err := json.Marshal(imageConfig{
		Architecture: runtime.GOARCH, OS: "linux", Config: config,
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + digest}},
		History: []historyEntry{{CreatedBy: "hack/local-cluster"}},
	})
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(described))
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": tags, "Layers": []string{digest + ".tar"},
	}})
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	archive := tar.NewWriter(out)
	for _, file := range []struct {
		name    string
		size    int64
		content io.Reader
	}{
		{configName, int64(len(described)), bytes.NewReader(described)},
		{digest + ".tar", size, layer},
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: file.size}); err != nil {
			return err
		}
		if _, err := io.Copy(archive, file.content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return out.Close()
}

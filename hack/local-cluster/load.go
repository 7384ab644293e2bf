package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// image is an archive and a name that the node has once it is imported.
type image struct{ name, archive string }

// importMissing imports those images whose names the node does not have.
func importMissing(ctx context.Context, config node.Config, images []image) (string, error) {
	if err := wait(ctx, apiLimit, func() error { _, err := imageNames(config); return err }); err != nil {
		return "", err
	}
	names, err := imageNames(config)
	if err != nil {
		return "", err
	}
	imported := 0
	for _, each := range images {
		if names[each.name] {
			continue
		}
		if err := importArchive(config, each.archive); err != nil {
			return "", err
		}
		imported++
	}
	if imported == 0 {
		return "there", nil
	}
	return "imported", nil
}

// imageNames are the names of the node's images, digests left out.
func imageNames(config node.Config) (map[string]bool, error) {
	output, err := ctr(config, "--timeout", "5s", "images", "ls", "-q")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, name := range strings.Fields(output) {
		if !strings.HasPrefix(name, "sha256:") {
			names[name] = true
		}
	}
	return names, nil
}

func importArchive(config node.Config, path string) error {
	_, err := ctr(config, "images", "import", "--snapshotter", "overlayfs", path)
	return err
}

// importChanged imports an archive, unless the node has just these images from
// an earlier load.
func importChanged(config node.Config, path string) (string, error) {
	content, err := readArchive(path)
	if err != nil {
		return "", err
	}
	present, err := imageNames(config)
	if err != nil {
		return "", err
	}
	loaded := map[string]string{}
	record := config.Path("loaded.json")
	if data, err := os.ReadFile(record); err == nil {
		_ = json.Unmarshal(data, &loaded) // a broken record costs one import
	}
	same := len(content) > 0
	for name, id := range content {
		same = same && present[name] && loaded[name] == id
		loaded[name] = id
	}
	if same {
		return "there already", nil
	}
	if err := importArchive(config, path); err != nil {
		return "", err
	}
	data, err := json.Marshal(loaded)
	if err != nil {
		return "", err
	}
	return "", os.WriteFile(record, data, 0o600)
}

// readArchive gives the images of an archive of "docker save" form: name to id.
func readArchive(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for files := tar.NewReader(file); ; {
		header, err := files.Next()
		if err == io.EOF {
			return nil, refuse("%s is no image archive: it has no manifest.json", path)
		}
		if err != nil {
			return nil, refuse("%s is no image archive: %v", path, err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		var images []struct {
			Config   string
			RepoTags []string
		}
		if err := json.NewDecoder(files).Decode(&images); err != nil {
			return nil, refuse("%s is no image archive: manifest.json: %v", path, err)
		}
		content := map[string]string{}
		for _, each := range images {
			for _, name := range each.RepoTags {
				content[name] = each.Config
			}
		}
		return content, nil
	}
}

// ctr runs containerd's own client against the node's containerd.
func ctr(config node.Config, args ...string) (string, error) {
	command := exec.Command("ctr", append([]string{"--address", config.Socket(), "--namespace", "k8s.io"}, args...)...)
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, tail(problems.String(), 3))
	}
	return string(output), nil
}

func load(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return refuse("usage: load FILE.tar…, archives of \"buildah push IMAGE docker-archive:FILE.tar:NAME\"")
	}
	p, err := here()
	if err != nil {
		return err
	}
	current, err := usesCurrent()
	if err != nil {
		return err
	}
	var archives []string
	for _, arg := range args {
		archive, err := p.archive(arg)
		if err != nil {
			return err
		}
		archives = append(archives, archive)
	}
	one := func(archive string) (string, error) { return "", loadIntoCurrent(ctx, archive) }
	if !current {
		config, _, err := mustRun()
		if err != nil {
			return err
		}
		one = func(archive string) (note string, err error) {
			for _, each := range config.All() {
				if note, err = importChanged(each, archive); err != nil {
					return "", err
				}
			}
			return note, nil
		}
	}
	s := newSteps(os.Stdout)
	for _, archive := range archives {
		if err := s.do("load "+filepath.Base(archive), func() (string, error) { return one(archive) }); err != nil {
			return err
		}
	}
	return nil
}

// archive finds a file that the user has named: "go -C" has changed the working
// folder, so relative names are taken from the checkout's root.
func (p place) archive(name string) (string, error) {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.checkout, name)
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", refuse("no file %s (relative names are taken from %s); build the images with: hack/images/build.sh all", name, p.checkout)
	}
	return path, nil
}

// loadIntoCurrent gives an archive to the cluster of the user's current
// context: into a kind node, else to the registry that IMAGE_REPOSITORY names.
func loadIntoCurrent(ctx context.Context, archive string) error {
	current, err := currentContext(ctx)
	if err != nil {
		return err
	}
	if cluster, isKind := strings.CutPrefix(current, "kind-"); isKind {
		return runQuietly(ctx, "kind", "load", "image-archive", archive, "--name", cluster)
	}
	repository := os.Getenv("IMAGE_REPOSITORY")
	if repository == "" {
		return refuse("the cluster of context %q pulls its images: set IMAGE_REPOSITORY to a repository you may push to, build the images again, and load them", current)
	}
	content, err := readArchive(archive)
	if err != nil {
		return err
	}
	for name := range content {
		if !strings.HasPrefix(name, repository+"/") {
			return refuse("%s holds %s, which is not in IMAGE_REPOSITORY=%s: build it again with IMAGE_REPOSITORY set", filepath.Base(archive), name, repository)
		}
		if err := pushArchive(ctx, archive, name); err != nil {
			return err
		}
	}
	return nil
}

// pushArchive pushes one image of an archive to its registry.
func pushArchive(ctx context.Context, archive, name string) error {
	tool, err := containerTool()
	if err != nil {
		return err
	}
	if tool != "buildah" {
		return errors.Join(runQuietly(ctx, tool, "load", "--input", archive), runQuietly(ctx, tool, "push", name))
	}
	// By way of an image store that lives as long as the push.
	store, err := os.MkdirTemp("", "snakepit-push-")
	if err != nil {
		return err
	}
	global := []string{"--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"), "--storage-driver", "vfs"}
	err = runQuietly(ctx, "buildah", append(global, "pull", "docker-archive:"+archive)...)
	if err == nil {
		err = runQuietly(ctx, "buildah", append(global, "push", name, "docker://"+name)...)
	}
	return errors.Join(err, os.RemoveAll(store))
}

// containerTool chooses as hack/images/build.sh does.
func containerTool() (string, error) {
	if tool := os.Getenv("CONTAINER_TOOL"); tool != "" {
		return tool, nil
	}
	for _, tool := range []string{"buildah", "podman", "docker"} {
		if _, err := exec.LookPath(tool); err == nil && (tool != "buildah" || os.Geteuid() == 0) {
			return tool, nil
		}
	}
	return "", refuse("none of buildah (as root), podman and docker is here, and one is needed to push images")
}

func runQuietly(ctx context.Context, program string, args ...string) error {
	output, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return refuse("%s is not installed; install it, it is needed for this kind of cluster", program)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, tail(string(output), 10))
	}
	return nil
}

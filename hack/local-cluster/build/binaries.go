package build

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs are the names under which the Kubernetes binary is called.
var Programs = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// Kubernetes gives the folder with the one Kubernetes binary and a symbolic
// link for each of Programs. source is the folder of its Go module.
func (c Cache) Kubernetes(source string) (Item, error) {
	version, err := moduleVersion(source, "k8s.io/kubernetes")
	if err != nil {
		return Item{}, err
	}
	flags := versionFlags(version)
	return c.goProgram("kubernetes", version, source, flags, "", func(dir, _ string) error {
		for _, program := range Programs {
			if err := os.Symlink("kubernetes", filepath.Join(dir, program)); err != nil {
				return err
			}
		}
		return nil
	})
}

// CoreDNS gives the folder with coredns.tar, the image that ImageName names.
func (c Cache) CoreDNS(source string) (Item, error) {
	version, err := moduleVersion(source, "github.com/coredns/coredns")
	if err != nil {
		return Item{}, err
	}
	return c.goProgram("coredns", version, source, "", archiveFormat, func(dir, key string) error {
		return archiveProgram(dir, "coredns", key)
	})
}

// Pause gives the folder with pause.tar, the image that ImageName names; source
// is the folder of the driver's own module.
func (c Cache) Pause(source string) (Item, error) {
	return c.goProgram("pause", "1", filepath.Join(source, "pause"), "", archiveFormat, func(dir, key string) error {
		return archiveProgram(dir, "pause", key)
	})
}

// goProgram builds one static program and lets finish add to its folder; format
// is the version of what finish makes.
func (c Cache) goProgram(name, version, source, ldflags, format string, finish func(dir, key string) error) (Item, error) {
	goVersion, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		return Item{}, fmt.Errorf("go env GOVERSION: %w (Go must be installed and on the PATH)", err)
	}
	hash, err := key([]string{string(goVersion), ldflags, format}, source)
	if err != nil {
		return Item{}, err
	}
	key := version + "-" + hash
	return c.item(name, key, func(dir string) error {
		command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w "+ldflags, "-o", filepath.Join(dir, name), ".")
		command.Dir = source
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
		if err := c.run(command); err != nil {
			return fmt.Errorf("go build of %s: %w", name, err)
		}
		return finish(dir, key)
	})
}

// moduleVersion reads the required version of a module from a go.mod.
func moduleVersion(source, module string) (string, error) {
	file, err := os.Open(filepath.Join(source, "go.mod"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "))
		if len(fields) >= 2 && fields[0] == module {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s requires no %s", file.Name(), module)
}

// versionFlags are the linker flags that tell Kubernetes its own version:
// without them it calls itself v0.0.0-master and version checks misbehave.
func versionFlags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	values := []string{
		"gitVersion=" + version,
		"gitMajor=" + parts[0],
		"gitMinor=" + parts[1],
		"gitTreeState=clean",
		"gitCommit=",
		"buildDate=1970-01-01T00:00:00Z",
	}
	var flags []string
	for _, of := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, value := range values {
			flags = append(flags, "-X "+of+"."+value)
		}
	}
	return strings.Join(flags, " ")
}

package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// PythonImage is the name under which the Python base image is imported.
	PythonImage = "localhost/python:base"
	pythonSuite = "bookworm" // has Python 3.11
)

var pythonPackages = []string{"python3", "python3-pip", "ca-certificates"}

// trimPython takes from the root file system what no running program reads, and
// makes it answer to the names that the official Python images have: "python",
// and a pip that may install beside Debian's own packages.
const trimPython = `
cd "$1"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/debconf/*-old
rm -rf usr/share/man usr/share/info usr/share/locale usr/share/i18n usr/share/lintian
find usr/share/doc -depth -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find usr/share/doc -depth -type d -empty -delete
rm -f usr/lib/python3.*/EXTERNALLY-MANAGED
ln -sf python3 usr/bin/python
# What the machine's own resolver says means nothing in a container.
: > etc/resolv.conf
rm -f etc/hostname
tar --numeric-owner --sort=name --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -cf "$2" .
`

// Python gives the folder with python-base.tar: Debian's Python and pip, made
// by debootstrap, for machines that have no image registry. It needs root.
func (c Cache) Python() (Item, error) {
	hash, err := key([]string{archiveFormat, pythonSuite, strings.Join(pythonPackages, ","), trimPython})
	if err != nil {
		return Item{}, err
	}
	key := pythonSuite + "-" + hash
	return c.item("python", key, func(dir string) error {
		root, layer := filepath.Join(dir, "root"), filepath.Join(dir, "layer.tar")
		steps := []*exec.Cmd{
			exec.Command("debootstrap", "--variant=minbase", "--include="+strings.Join(pythonPackages, ","), pythonSuite, root),
			exec.Command("sh", "-euc", trimPython, "trim", root, layer),
		}
		for _, step := range steps {
			if err := c.run(step); err != nil {
				return err
			}
		}
		config := containerConfig{
			Cmd: []string{"python3"},
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		}
		tags := []string{PythonImage, PythonImageOf(key)}
		if err := writeArchive(filepath.Join(dir, "python-base.tar"), layer, config, tags); err != nil {
			return err
		}
		if err := os.Remove(layer); err != nil {
			return err
		}
		return os.RemoveAll(root)
	})
}

// PythonImageOf names the base image of one key: a node that has the name has
// this very build.
func PythonImageOf(key string) string { return "localhost/python:" + key }

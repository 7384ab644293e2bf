package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Folders of the host that the node's programs need and must not change.
var readOnlyFolders = []string{"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// Files under /proc/sys that the kubelet sets and that the kernel has only once
// for the whole machine. The node sees a file of its own in their place, which
// holds the value the kubelet wants, so the machine's setting stays.
var shieldedSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// enterRoot gives this process (already in a mount namespace of its own) a root
// file system that shows the host's programs read-only, nothing of its /var,
// /run, /tmp and /home, and the cluster's folder at its own path.
func (c Config) enterRoot() error {
	// On most systems "/" is shared: without this, each mount would reach the host.
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := c.Path("root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", root, "tmpfs", 0, "mode=755,size=16m"); err != nil {
		return err
	}
	for _, step := range []func(string) error{c.mountHostPrograms, c.mountOwnFolders, mountKernelFolders, c.shieldSettings} {
		if err := step(root); err != nil {
			return err
		}
	}
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := syscall.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Unmount("/.old", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount of the host's root: %w", err)
	}
	if err := os.Remove("/.old"); err != nil {
		return err
	}
	// The kubelet wants "/" shared, for volumes with mount propagation.
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

func (c Config) mountHostPrograms(root string) error {
	for _, name := range readOnlyFolders {
		info, err := os.Lstat("/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink("/" + name)
			if err != nil {
				return err
			}
			if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
				return err
			}
			continue
		}
		target := filepath.Join(root, name)
		if err := bind("/"+name, target, syscall.MS_REC); err != nil {
			return err
		}
		if err := mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) mountOwnFolders(root string) error {
	for _, name := range []string{"var", "run", "tmp"} {
		if err := os.MkdirAll(c.Path(name), 0o755); err != nil {
			return err
		}
		if err := bind(c.Path(name), filepath.Join(root, name), 0); err != nil {
			return err
		}
	}
	if err := os.Chmod(c.Path("tmp"), 0o777|fs.ModeSticky); err != nil {
		return err
	}
	if err := os.Symlink("/run", c.Path("var", "run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return bind(c.Dir, filepath.Join(root, c.Dir), 0)
}

func mountKernelFolders(root string) error {
	for _, name := range []string{"proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	if err := mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return err
	}
	// A fresh sysfs shows the interfaces of the node's own network.
	if err := mount("sysfs", filepath.Join(root, "sys"), "sysfs", 0, ""); err != nil {
		return err
	}
	for _, path := range []string{"/sys/fs/cgroup", "/dev"} {
		if err := mount(path, filepath.Join(root, path), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) shieldSettings(root string) error {
	for setting, value := range shieldedSettings {
		own := c.Path("settings", setting)
		if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		target := filepath.Join(root, "proc", "sys", setting)
		if _, err := os.Stat(target); err != nil {
			continue // this kernel does not have it
		}
		if err := mount(own, target, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// bind shows a folder at target, with MS_REC also what is mounted in it.
func bind(source, target string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return mount(source, target, "", syscall.MS_BIND|flags, "")
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	return nil
}

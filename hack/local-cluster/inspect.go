package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// rootOf is the node's root file system as the host sees it.
func rootOf(first firstProcess) string { return fmt.Sprintf("/proc/%d/root", first.PID) }

func killContainer(_ context.Context, args []string) error {
	if len(args) != 1 {
		return refuse("usage: kill-container ID, the container id without containerd://")
	}
	_, first, err := mustRun()
	if err != nil {
		return err
	}
	pid, err := node.MainProcess(rootOf(first), strings.TrimPrefix(args[0], "containerd://"))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	fmt.Println(pid)
	return nil
}

func processes(_ context.Context, _ []string) error {
	config, first, err := mustRun()
	if err != nil {
		return err
	}
	containers, err := config.Containers(rootOf(first))
	if err != nil {
		return err
	}
	return printJSON(containers)
}

func mounts(_ context.Context, _ []string) error {
	_, first, err := mustRun()
	if err != nil {
		return err
	}
	all, err := node.PodMounts(first.PID, rootOf(first))
	if err != nil {
		return err
	}
	return printJSON(all)
}

func printJSON(value any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// execute runs a command of the host in the node's namespaces, for tests that
// cut links or look at sockets.
func execute(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return refuse("usage: exec COMMAND [ARGUMENT…]")
	}
	config, first, err := mustRun()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(first.PID), "--mount", "--pid", "--net", "--uts", "--ipc", "--wd=/", "--",
	}, args...)...)
	command.Env = append(os.Environ(), "PATH="+config.Path("bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return err
}

package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// startLimit bounds the time until a server listens, or until workers are ready.
	startLimit = 60 * time.Second
	// endLimit is what a process gets between SIGTERM and SIGKILL, scriptEndLimit what programs of others get.
	endLimit, scriptEndLimit = 10 * time.Second, 30 * time.Second
	poll                     = 20 * time.Millisecond
	// tail of a log is shown when something went wrong.
	tail = 2000
)

// child is a process that was started here.
type child struct {
	name   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
	limit  time.Duration
}

// start runs a program with its output in a file of the folder. It inherits nothing of the environment but what is given.
func start(folder, name string, env []string, program string, args ...string) (*child, error) {
	c := &child{name: name, log: filepath.Join(folder, name+".log"), exited: make(chan struct{}), limit: endLimit}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	c.cmd = exec.Command(program, args...)
	c.cmd.Env = append([]string{"TMPDIR=" + folder}, env...) // never nil, which would mean everything
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = folder, log, log
	// A group of its own keeps the terminal's ^C away, so that children end in order; the signal ends them when this process is killed.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in the log
		close(c.exited)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// until waits for a condition that the child fulfils.
func (c *child) until(ctx context.Context, what string, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		done, err := condition()
		if err != nil || done {
			return err
		}
		select {
		case <-ticker.C:
		case <-c.exited:
			return fmt.Errorf("%s ended before %s:\n%s", c.name, what, c.output())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w while waiting for %s:\n%s", c.name, ctx.Err(), what, c.output())
		}
	}
}

// output is the end of the child's log.
func (c *child) output() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-tail):]))
}

// end asks the child to end and sees to it that nothing below it is left.
func (c *child) end() error {
	below, err := tree(c.pid())
	if err != nil {
		return err
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-c.exited:
	case <-time.After(c.limit):
		err = fmt.Errorf("%s ignored SIGTERM for %s:\n%s", c.name, c.limit, c.output())
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
	return errors.Join(err, c.audit(below))
}

// audit ends what a child left behind, and says so.
func (c *child) audit(below []process) error {
	limit := time.Now().Add(endLimit / 2)
	for {
		left := living(below)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(limit) {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may end at this moment
			}
			return fmt.Errorf("%s left %d processes behind, which were killed: %v", c.name, len(left), left)
		}
		time.Sleep(poll)
	}
}

// living returns which of some processes are still the same and no zombies.
func living(before []process) []int {
	var left []int
	for _, p := range before {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			continue
		}
		if now, err := parseStat(text); err == nil && !now.zombie && now.cpu >= p.cpu {
			left = append(left, p.pid)
		}
	}
	return left
}

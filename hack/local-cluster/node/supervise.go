package node

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	probeInterval = 100 * time.Millisecond
	firstBackoff  = time.Second
	lastBackoff   = 10 * time.Second
)

// A supervisor is the part of a first process that starts programs, starts them
// again when they end, and reaps every orphan of its PID namespace.
type supervisor struct {
	config Config
	mu     sync.Mutex
	ends   map[int]chan syscall.WaitStatus
}

// run never returns: the node ends when its first process is killed.
func (s *supervisor) run() {
	for _, each := range s.config.components() {
		go s.keep(each)
	}
	s.reap()
}

// keep runs one component for ever, with growing pauses when it ends early.
func (s *supervisor) keep(c component) {
	backoff := firstBackoff
	for {
		for _, ready := range c.after {
			for ready() != nil {
				time.Sleep(probeInterval)
			}
		}
		started := time.Now()
		ended, err := s.start(c)
		if err != nil {
			fmt.Printf("%s: not started: %v\n", c.name, err)
		} else {
			status := <-ended
			fmt.Printf("%s: ended after %s (exit code %d, signal %d); its output is in %s\n", c.name,
				time.Since(started).Round(time.Millisecond), status.ExitStatus(), status.Signal(), s.config.Log(c.name))
		}
		if time.Since(started) > lastBackoff {
			backoff = firstBackoff
		}
		time.Sleep(backoff)
		backoff = min(2*backoff, lastBackoff)
	}
}

func (s *supervisor) start(c component) (<-chan syscall.WaitStatus, error) {
	log, err := os.OpenFile(s.config.Log(c.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	path := s.config.Path("bin", c.name)
	if c.name == "containerd" {
		path = "/usr/bin/containerd"
	}
	// Held over the fork, so that the end of a child that ends at once waits
	// in reap until its channel is known.
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, append([]string{filepath.Base(path)}, c.args...), &syscall.ProcAttr{
		Dir: "/",
		Env: []string{
			"PATH=" + s.config.Path("bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/tmp",
		},
		Files: []uintptr{0, log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	s.ends[pid] = ended
	return ended, nil
}

// reap waits for every child, adopted ones included.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.ECHILD {
			time.Sleep(probeInterval) // nothing started yet
			continue
		}
		if err != nil {
			continue
		}
		s.mu.Lock()
		if ended, ours := s.ends[pid]; ours {
			delete(s.ends, pid)
			ended <- status
		}
		s.mu.Unlock()
	}
}

package system

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// System is something that serves calls and can be measured.
type System struct {
	// Name in tables.
	Name string
	// Addresses that callers call: one for each process of a plain server, else one.
	Addresses []string
	// Admin is the address of the router's probes, Profiles that of its profiles; "" where there is none.
	Admin, Profiles string

	folder  string
	router  []*child // what stands between caller and Python
	workers []*child // Python, with all that starts and watches it
}

// Usage of a system's processes.
type Usage struct{ Router, Workers time.Duration }

// Python returns all Python processes that live.
func (s *System) Python() ([]int, error) {
	var pids []int
	for _, c := range s.workers {
		below, err := tree(c.pid())
		if err != nil {
			return nil, err
		}
		for _, p := range below {
			pids = append(pids, p.pid)
		}
	}
	return pids, nil
}

// Usage is the CPU time that the system has used since it started.
func (s *System) Usage() (u Usage, err error) {
	if u.Router, err = sum(s.router); err != nil {
		return u, fmt.Errorf("%s: %w", s.Name, err)
	}
	if u.Workers, err = sum(s.workers); err != nil {
		return u, fmt.Errorf("%s: %w", s.Name, err)
	}
	return u, nil
}

func sum(children []*child) (time.Duration, error) {
	var all time.Duration
	for _, c := range children {
		used, err := cpu(c.pid())
		if err != nil {
			return 0, fmt.Errorf("%w:\n%s", err, c.output())
		}
		all += used
	}
	return all, nil
}

// Memory of all processes in bytes: RSS, which counts shared pages often, and PSS, which counts them once.
func (s *System) Memory() (rss, pss int64, err error) {
	for _, c := range append(append([]*child(nil), s.router...), s.workers...) {
		r, p, err := memory(c.pid())
		if err != nil {
			return 0, 0, err
		}
		rss, pss = rss+r, pss+p
	}
	return rss, pss, nil
}

// Stop ends everything, workers first: they say goodbye to the router. It returns what did not end as it should.
func (s *System) Stop() error {
	var failures []error
	for _, children := range [][]*child{s.workers, s.router} {
		for _, c := range children {
			failures = append(failures, c.end())
		}
	}
	failures = append(failures, os.RemoveAll(s.folder))
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

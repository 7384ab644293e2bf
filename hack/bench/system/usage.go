package system

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// process is what /proc says of one.
type process struct {
	pid, parent int
	zombie      bool
	// cpu of the process and of its children that have ended and were waited for.
	cpu time.Duration
}

// processes reads all that run. Those that end meanwhile are left out.
func processes() ([]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	found := make([]process, 0, len(paths))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if p, err := parseStat(text); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// parseStat reads /proc/PID/stat. The command's name stands in brackets and may contain anything.
func parseStat(text []byte) (process, error) {
	var p process
	end := bytes.LastIndexByte(text, ')')
	pid, _, ok := bytes.Cut(text, []byte(" ("))
	if end < 0 || !ok {
		return p, fmt.Errorf("no process: %.40q", text)
	}
	fields := strings.Fields(string(text[end+1:])) // from the state on, which proc(5) numbers 3
	if len(fields) < 15 {
		return p, fmt.Errorf("%d fields", len(fields))
	}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	p.pid, p.parent = int(number(string(pid))), int(number(fields[1]))
	p.zombie = fields[0] == "Z" || fields[0] == "X"
	p.cpu = time.Duration(number(fields[11])+number(fields[12])+number(fields[13])+number(fields[14])) * tick
	return p, nil
}

// tree returns the living processes at and below some.
func tree(roots ...int) ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	below := map[int][]process{}
	var found []process
	for _, p := range all {
		below[p.parent] = append(below[p.parent], p)
		for _, root := range roots {
			if p.pid == root && !p.zombie {
				found = append(found, p)
			}
		}
	}
	for i := 0; i < len(found); i++ {
		for _, child := range below[found[i].pid] {
			if !child.zombie {
				found = append(found, child)
			}
		}
	}
	return found, nil
}

// cpu of a tree, its ended processes included.
func cpu(root int) (time.Duration, error) {
	found, err := tree(root)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, fmt.Errorf("process %d has ended", root)
	}
	var sum time.Duration
	for _, p := range found {
		sum += p.cpu
	}
	return sum, nil
}

// memory of a tree in bytes: the sum of its processes' RSS, which counts shared pages often, and of their PSS, which counts them once.
func memory(root int) (rss, pss int64, err error) {
	found, err := tree(root)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range found {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if err != nil {
			continue // it has just ended
		}
		rss += rollup(text, "Rss:")
		pss += rollup(text, "Pss:")
	}
	return rss, pss, nil
}

func rollup(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != name {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}

// Own is the CPU time that this process has used: the client's.
func Own() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// Busy is the CPU time that the whole machine has used, by whomever. It tells how much of a measurement's time went to others.
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %.40q", line)
	}
	var sum time.Duration
	for i, field := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 {
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

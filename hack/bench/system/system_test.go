package system

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	text := "42 (a) b (c)) S 7 1 1 0 -1 4194560 100 200 0 0 150 50 30 20 20 0 1 0 1000 1 1"
	p, err := parseStat([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	// utime + stime + cutime + cstime
	if p.pid != 42 || p.parent != 7 || p.zombie || p.cpu != 2500*time.Millisecond {
		t.Errorf("%+v", p)
	}
	if p, err := parseStat([]byte(strings.Replace(text, "S 7", "Z 7", 1))); err != nil || !p.zombie {
		t.Errorf("a zombie: %+v, %v", p, err)
	}
	for _, bad := range []string{"", "42", "42 (a) S 7"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestRollup(t *testing.T) {
	text := []byte("00400000-7fff [rollup]\nRss:                1000 kB\nPss:                 600 kB\nPss_Dirty:           5 kB\n")
	if rollup(text, "Rss:") != 1000<<10 || rollup(text, "Pss:") != 600<<10 || rollup(text, "Swap:") != 0 {
		t.Error("wrong values")
	}
}

func TestCPUCountsThisProcessAndItsTree(t *testing.T) {
	before, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	for used := before; used-before < 50*time.Millisecond; { // ends as soon as so much CPU time was used, however long that takes
		if used, err = Own(); err != nil {
			t.Fatal(err)
		}
	}
	own, err := cpu(os.Getpid())
	if err != nil || own < 30*time.Millisecond {
		t.Errorf("%s, %v", own, err)
	}
	all, err := Busy()
	if err != nil || all < own {
		t.Errorf("the machine used %s, this process %s: %v", all, own, err)
	}
	if _, err := cpu(1 << 30); err == nil {
		t.Error("a process that does not exist has no CPU time")
	}
}

// A child that ends leaves nothing; one that leaves a daemon is found out, and the daemon is ended.
func TestEndAuditsTheTree(t *testing.T) {
	for script, want := range map[string]string{
		"echo listening 1; sleep 60 & wait":                                  "left 1 processes behind",
		"trap 'kill $!; exit' TERM; sleep 60 & echo listening 1; wait; exit": "",
	} {
		c, err := start(t.TempDir(), "sh", []string{"PATH=" + os.Getenv("PATH")}, "/bin/sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listening(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := c.until(t.Context(), "it had a child", func() (bool, error) {
			below, err := tree(c.pid())
			return len(below) == 2, err
		}); err != nil {
			t.Fatal(err)
		}
		below, err := tree(c.pid())
		if err != nil {
			t.Fatal(err)
		}
		err = c.end()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", script, err)
		}
		for limit := time.Now().Add(endLimit); len(living(below)) > 0; { // the kernel takes a moment
			if time.Now().After(limit) {
				t.Fatalf("%q: %v live", script, living(below))
			}
		}
	}
}

func TestAChildThatEndsEarlyShowsItsLog(t *testing.T) {
	c, err := start(t.TempDir(), "sh", nil, "/bin/sh", "-c", "echo no such module; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listening(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("%v", err)
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// steps prints what is being done, one line each, with its elapsed time.
type steps struct {
	out   io.Writer
	start time.Time
	// broken says that something was written below the line of a step before
	// its end.
	broken *bool
}

func newSteps(out io.Writer) steps { return steps{out: out, start: time.Now(), broken: new(bool)} }

// Write shows what happens within a step, indented below its line.
func (s steps) Write(text []byte) (int, error) {
	if !*s.broken {
		fmt.Fprintln(s.out)
		*s.broken = true
	}
	for _, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		fmt.Fprintf(s.out, "  %s\n", line)
	}
	return len(text), nil
}

// do runs one step. note, when not empty, is added to its line.
func (s steps) do(name string, run func() (note string, err error)) error {
	*s.broken = false
	fmt.Fprintf(s.out, "%s ", pad(name, 34))
	began := time.Now()
	note, err := run()
	result := "ok"
	if err != nil {
		result = "FAILED"
	}
	if note != "" {
		note = "  " + note
	}
	if *s.broken {
		fmt.Fprintf(s.out, "%s ", pad("  ", 34))
	}
	fmt.Fprintf(s.out, "%6.1fs  %s%s\n", time.Since(began).Seconds(), result, note)
	return err
}

// pad fills a name with dots, so that the eye finds the end of the line.
func pad(name string, width int) string {
	text := name + " "
	for len(text) < width {
		text += "."
	}
	return text
}

// wait asks until ready says nil; the last answer tells what was missing.
func wait(ctx context.Context, limit time.Duration, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

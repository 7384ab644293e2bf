package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `{"id":"R1","figure":"failed","value":0,"unit":"points","bound":"<=0","ok":true,"runs":88,"seed":1,"commit":"abc","command":"make faults"}`

func change(old, replacement string) string { return strings.Replace(good, old, replacement, 1) }

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		content string
		says    string // in the table; or in the error, when it is one
		bad     bool   // a figure is not as it should be
		fails   bool   // the file cannot be read
	}{
		{"within its bound", good, "ok", false, false},
		{"beyond its bound, whatever it says of itself", change(`"value":0`, `"value":2`), "BEYOND", true, false},
		{"not ok", change(`"ok":true`, `"ok":false`), "FAILED", true, false},
		{"void", change(`"ok":true`, `"ok":true,"void":true`), "void", true, false},
		{"no run", change(`"runs":88`, `"runs":0`), "void", true, false},
		{"without a bound", change(`"<=0"`, `""`), "told", false, false},
		{"the last line counts", change(`"value":0`, `"value":2`) + "\n" + good, "ok", false, false},
		{"the last line counts against", good + "\n" + change(`"value":0`, `"value":2`), "BEYOND", true, false},
		{"a ratio with its range", change(`"unit"`, `"low":0.95,"high":1.05,"unit"`), "(0.95 to 1.05)", false, false},
		{"not JSON", good + "\nnonsense", "line 2 is no figure", false, true},
		{"no value", change(`"value":0,`, ``), "line 1 lacks", false, true},
		{"a bound that is none", change(`"<=0"`, `"about 3"`), `bound "about 3"`, false, true},
		{"empty", "\n", "no figure", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "figures.jsonl")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := run(path, "", &out)
			if errors.Is(err, errBad) != c.bad || (err != nil) != (c.bad || c.fails) {
				t.Fatalf("error %v, want bad %v, failing %v", err, c.bad, c.fails)
			}
			text := out.String()
			if c.fails {
				text = err.Error()
			}
			if !strings.Contains(text, c.says) {
				t.Errorf("%q does not say %q", text, c.says)
			}
		})
	}
}

func TestNoFile(t *testing.T) {
	err := run(filepath.Join(t.TempDir(), "absent.jsonl"), "", os.Stdout)
	if err == nil || !strings.Contains(err.Error(), "make faults") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		bound string
		value float64
		want  bool
	}{
		{"<=5", 5, true}, {"<=5", 5.01, false}, {"<5", 5, false}, {">=0.9", 0.9, true}, {">=0.9", 0.89, false}, {">0", 0, false}, {"==1", 1, true}, {"==1", 1.1, false},
	} {
		if got, err := holds(c.bound, c.value); err != nil || got != c.want {
			t.Errorf("%g %s: %v (%v), want %v", c.value, c.bound, got, err, c.want)
		}
	}
}

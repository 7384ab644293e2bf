package upstream

import (
	"fmt"
	"strings"
	"testing"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// What a worker wrote last is bounded and printable, whatever its supervisor sends.
func TestLastLines(t *testing.T) {
	if got := lastLines(nil); len(got) != 0 {
		t.Errorf("no exit: %q", got)
	}
	exit := &bridgev1.WorkerExited{}
	for i := range maxLines + 5 {
		exit.LastLines = append(exit.LastLines, fmt.Sprint("line ", i))
	}
	got := lastLines(exit)
	if len(got) != maxLines || got[0] != "line 5" || got[maxLines-1] != fmt.Sprint("line ", maxLines+4) {
		t.Errorf("kept %d lines, %q first", len(got), got[0])
	}
	exit.LastLines = []string{"a\x1b[31mb\x00", strings.Repeat("x", 1000)}
	got = lastLines(exit)
	if strings.ContainsAny(got[0], "\x1b\x00") || len(got[1]) != 256 {
		t.Errorf("not clean: %q, %d bytes", got[0], len(got[1]))
	}
}

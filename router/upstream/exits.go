package upstream

import (
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// Exit says how a worker's process ended.
type Exit struct {
	Cause  string // empty: none ended yet
	Code   int
	Signal int
	// Output is the last line of what it wrote; it may carry data of users.
	Output string
	At     time.Time
}

// maxLines bounds what is told of a worker's last words.
const maxLines = 20

// lastLines is what a worker wrote last, oldest line first, as its supervisor kept it.
func lastLines(e *bridgev1.WorkerExited) []string {
	kept := e.GetLastLines()
	kept = kept[max(0, len(kept)-maxLines):]
	lines := make([]string, 0, len(kept))
	for _, line := range kept {
		lines = append(lines, clean(line, 256))
	}
	return lines
}

func exitOf(cause string, e *bridgev1.WorkerExited, at time.Time) Exit {
	exit := Exit{Cause: clean(cause, 64), Signal: int(e.GetSignal()), Output: clean(e.GetLastOutput(), 256), At: at}
	if exit.Signal == 0 {
		exit.Code = int(e.GetExitCode())
	}
	return exit
}

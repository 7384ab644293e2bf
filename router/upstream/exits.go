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

func exitOf(cause string, e *bridgev1.WorkerExited, at time.Time) Exit {
	exit := Exit{Cause: clean(cause, 64), Signal: int(e.GetSignal()), Output: clean(e.GetLastOutput(), 256), At: at}
	if exit.Signal == 0 {
		exit.Code = int(e.GetExitCode())
	}
	return exit
}

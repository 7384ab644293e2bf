package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExitReason says why a worker's process ended. Others than those below may come with a newer worker package.
// +kubebuilder:validation:MaxLength=64
type ExitReason string

const (
	// ExitExited: it ended by itself, with an exit code. Cure: read the log: something in the adapter calls sys.exit or ends the interpreter.
	ExitExited ExitReason = "EXITED"
	// ExitKilled: a signal ended it: a crash in C code (SIGSEGV, SIGABRT), or somebody's SIGKILL. Cure: read the log.
	ExitKilled ExitReason = "KILLED"
	// ExitSetupFailed: the adapter's setup raised. Cure: lastError has type and place.
	ExitSetupFailed ExitReason = "SETUP_FAILED"
	// ExitStartupTimeout: it was not ready within startup.timeout. Cure: make setup faster, or raise the limit.
	ExitStartupTimeout ExitReason = "STARTUP_TIMEOUT"
	// ExitStuck: it gave no sign of life for heartbeat.timeout and used no CPU time; it was killed.
	// Cure: its stacks are in the log: a deadlock, a device that does not answer.
	ExitStuck ExitReason = "STUCK"
	// ExitCallTimeout: a call ran longer than calls.timeout and calls.killAfter; it was killed.
	// Cure: its stacks are in the log; raise the limit, or split the call.
	ExitCallTimeout ExitReason = "CALL_TIMEOUT"
	// ExitMemoryGuard: the container was near its memory limit, and this worker held the most private memory; it was killed, so that the others
	// live. Cure: raise the limit in template, lower workers, or set recycle.maxMemory.
	ExitMemoryGuard ExitReason = "MEMORY_GUARD"
	// ExitContainerOOM: the container reached its memory limit, and the kernel killed it. Cure: the same as for MEMORY_GUARD.
	ExitContainerOOM ExitReason = "CONTAINER_OOM"
	// ExitRecycled: it was replaced by a fresh process: recycle, or the annotation snakepit.dev/recycle. Cure: none needed.
	ExitRecycled ExitReason = "RECYCLED"
)

// NextStep says in a few words what the reason means and what to do, beside reading the log; empty where the log says all.
func (r ExitReason) NextStep() string {
	switch r {
	case ExitStartupTimeout:
		return "it was not ready within startup.timeout: make setup faster, or raise the limit"
	case ExitStuck:
		return "it gave no sign of life and used no CPU time; its stacks are in the log"
	case ExitCallTimeout:
		return "a call ran past calls.timeout and calls.killAfter; its stacks are in the log"
	case ExitMemoryGuard:
		return "the container was near its memory limit: raise the limit in template, lower workers, or set recycle.maxMemory"
	case ExitContainerOOM:
		return "the container reached its memory limit: raise the limit in template, lower workers, or set recycle.maxMemory"
	}
	return ""
}

// WorkerExit says how a worker's process ended.
type WorkerExit struct {
	// reason in words of this project: EXITED, KILLED, SETUP_FAILED, STARTUP_TIMEOUT, STUCK, CALL_TIMEOUT, MEMORY_GUARD, CONTAINER_OOM, RECYCLED.
	Reason ExitReason `json:"reason"`

	// exitCode of the process, when no signal ended it.
	// +optional
	ExitCode int32 `json:"exitCode,omitempty"`

	// signal that ended the process.
	// +optional
	Signal int32 `json:"signal,omitempty"`

	// lastOutput is the last line of what the process wrote; only with crash.exposeMessages.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	LastOutput string `json:"lastOutput,omitempty"`

	// at is when the end was reported.
	At metav1.Time `json:"at"`
}

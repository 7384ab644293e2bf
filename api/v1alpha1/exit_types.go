package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ExitReason says why a worker's process ended. Others than those below may come with a newer worker package.
// +kubebuilder:validation:MaxLength=64
type ExitReason string

const (
	// ExitExited means: it ended by itself, with an exit code.
	ExitExited ExitReason = "EXITED"
	// ExitKilled means: a signal of somebody else ended it.
	ExitKilled ExitReason = "KILLED"
	// ExitSetupFailed means: the adapter's setup raised.
	ExitSetupFailed ExitReason = "SETUP_FAILED"
	// ExitStartupTimeout means: it was not ready within startup.timeout.
	ExitStartupTimeout ExitReason = "STARTUP_TIMEOUT"
	// ExitStuck means: it gave no sign of life and used no CPU time; it was killed.
	ExitStuck ExitReason = "STUCK"
	// ExitCallTimeout means: a call ran longer than calls.timeout and calls.killAfter allow; it was killed.
	ExitCallTimeout ExitReason = "CALL_TIMEOUT"
	// ExitMemoryGuard means: the container was near its memory limit, and this worker held the most; it was killed so that the others live.
	ExitMemoryGuard ExitReason = "MEMORY_GUARD"
	// ExitContainerOOM means: the container reached its memory limit, and the kernel killed this worker.
	ExitContainerOOM ExitReason = "CONTAINER_OOM"
	// ExitRecycled means: it was replaced by a fresh process, as recycle or the annotation asks for.
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

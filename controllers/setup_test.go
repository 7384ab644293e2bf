package controllers

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// However long something failed, it is tried again within the bound of R12 (a minute), and the first tries come at once.
func TestRetries(t *testing.T) {
	limiter := retries()
	var waits []time.Duration
	for range 100 {
		waits = append(waits, limiter.When(reconcile.Request{}))
	}
	if waits[0] > 10*time.Millisecond || waits[len(waits)-1] > 30*time.Second || waits[len(waits)-1] < 10*time.Second {
		t.Errorf("waits from %s to %s", waits[0], waits[len(waits)-1])
	}
}

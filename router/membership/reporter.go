package membership

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// lastWordTimeout bounds the one write that is tried when the router ends.
const lastWordTimeout = 2 * time.Second

// Reporter writes the router's part of the group's status: status.router and the conditions WorkersReady and
// AdapterLoaded, by server-side apply that carries the group's UID, so that it can never make a deleted group again.
//
// It writes only as the group's own router: when spec.podUID names another pod, it is silent. When somebody else changed
// its part (the router of an earlier pod, or a restored backup), it writes again. When the group is gone it gives up.
type Reporter struct {
	client          rest.Interface
	namespace, name string
	clock           clock.Clock
	log             logr.Logger
	wake            chan struct{} // holds one token: something below changed

	mu     sync.Mutex
	wanted *Facts                // normalized
	group  *v1alpha1.WorkerGroup // as followed last

	// The rest belongs to the goroutine of Run.
	ledger     ledger
	conditions []metav1.Condition // ours, as last written or found: they hold the transition times
	held       *heldStatus        // the API server's answer to our last write
	delay      time.Duration      // of the next retry
	told       string             // the last refusal that the log named
	ended      bool               // the group is gone
}

// heldStatus is our part of the status as the API server stored it.
type heldStatus struct {
	resourceVersion string
	router          *v1alpha1.RouterStatus
	conditions      []metav1.Condition
}

func newReporter(client rest.Interface, namespace, name string, ticking clock.Clock, log logr.Logger) *Reporter {
	return &Reporter{client: client, namespace: namespace, name: name, clock: ticking, log: log,
		wake: make(chan struct{}, 1), delay: factsInterval}
}

// Report replaces what is to be written. It copies facts, never blocks, and may be called at any rate from any goroutine.
func (r *Reporter) Report(facts Facts) {
	wanted := normalized(facts)
	r.mu.Lock()
	r.wanted = wanted
	r.mu.Unlock()
	r.nudge()
}

// follow tells the reporter which object it writes to, and what that object says now.
func (r *Reporter) follow(group *v1alpha1.WorkerGroup) {
	r.mu.Lock()
	r.group = group
	r.mu.Unlock()
	r.nudge()
}

func (r *Reporter) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends; then it makes one short attempt to write facts of life that are still unwritten.
func (r *Reporter) Run(ctx context.Context) {
	for {
		if !r.rest(ctx, r.step(ctx)) {
			r.lastWord(ctx)
			return
		}
	}
}

// rest waits for news, or for the given time unless that is 0; false says that ctx ended.
func (r *Reporter) rest(ctx context.Context, wait time.Duration) bool {
	var after <-chan time.Time
	if wait > 0 {
		timer := r.clock.NewTimer(wait)
		defer timer.Stop()
		after = timer.C()
	}
	select {
	case <-ctx.Done():
		return false
	case <-r.wake:
	case <-after:
	}
	return true
}

// step writes if it is time to, and returns how long to wait for the next look; 0 waits for news alone.
func (r *Reporter) step(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		wanted, group := r.latest()
		if wanted == nil {
			return 0
		}
		next := decide(r.ledger, wanted, r.clock.Now())
		if !next.write {
			return next.wait
		}
		r.write(ctx, wanted, group)
	}
	return 0
}

// latest returns what to write and to whom, or nil when there is nothing that this router may write.
func (r *Reporter) latest() (*Facts, *v1alpha1.WorkerGroup) {
	r.mu.Lock()
	wanted, group := r.wanted, r.group
	r.mu.Unlock()
	if r.ended || wanted == nil || group == nil {
		return nil, nil
	}
	if group.Spec.PodUID != "" && group.Spec.PodUID != wanted.Router.PodUID {
		return nil, nil
	}
	r.compare(group)
	return wanted, group
}

// compare looks whether somebody else wrote our part since we did.
func (r *Reporter) compare(group *v1alpha1.WorkerGroup) {
	if r.held == nil {
		if r.conditions == nil {
			r.conditions = group.Status.Conditions
		}
		return
	}
	order, err := resourceversion.CompareResourceVersion(group.ResourceVersion, r.held.resourceVersion)
	if err != nil || order <= 0 {
		return
	}
	router, conditions := group.Status.Router, ownConditions(group.Status.Conditions)
	if equality.Semantic.DeepEqual(router, r.held.router) && equality.Semantic.DeepEqual(conditions, r.held.conditions) {
		return
	}
	r.held = &heldStatus{resourceVersion: group.ResourceVersion, router: router, conditions: conditions}
	r.ledger.written = nil
}

func (r *Reporter) write(ctx context.Context, wanted *Facts, group *v1alpha1.WorkerGroup) {
	now := r.clock.Now()
	facts := dated(wanted, r.conditions, now)
	r.ledger.lastAttempt = now
	answer, result, err := r.apply(ctx, group.UID, facts)
	switch result {
	case applied:
		r.ledger.written, r.ledger.retryAt = wanted, time.Time{}
		r.conditions, r.delay = facts.Conditions, factsInterval
		r.held = heldBy(answer)
		if r.told != "" {
			r.told = ""
			r.log.Info("status is written again")
		}
	case gone:
		r.ended = true
		r.log.V(1).Info("the group is gone; no status is written any more")
	case failed:
		// The write may have arrived all the same, so nothing is known about what the API server holds.
		r.ledger.written, r.held = nil, nil
		if ctx.Err() != nil {
			return // the router ends: not a failure that asks for patience
		}
		r.ledger.retryAt = now.Add(max(jittered(r.delay), factsInterval))
		r.delay = min(2*r.delay, backoffLast)
		if reason := refusal(err); r.told != reason {
			r.told = reason
			r.log.Info(reason, "error", bounded(err.Error(), maxText))
		}
	}
}

// lastWord is for a drain that ended, or workers that failed, within the last interval: nobody else could tell.
func (r *Reporter) lastWord(ctx context.Context) {
	wanted, group := r.latest()
	if wanted == nil || !r.ledger.retryAt.IsZero() {
		return
	}
	if r.ledger.written != nil && sameFacts(r.ledger.written, wanted) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWordTimeout)
	defer cancel()
	r.write(ctx, wanted, group)
}

func heldBy(group *v1alpha1.WorkerGroup) *heldStatus {
	if group == nil || group.ResourceVersion == "" {
		return nil
	}
	return &heldStatus{resourceVersion: group.ResourceVersion, router: group.Status.Router,
		conditions: ownConditions(group.Status.Conditions)}
}

func ownConditions(all []metav1.Condition) []metav1.Condition {
	var own []metav1.Condition
	for _, kind := range []string{v1alpha1.ConditionWorkersReady, v1alpha1.ConditionAdapterLoaded} {
		for _, condition := range all {
			if condition.Type == kind {
				own = append(own, condition)
			}
		}
	}
	return own
}

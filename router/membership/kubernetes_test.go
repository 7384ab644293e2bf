package membership

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
)

type clusterFixture struct {
	api     *standIn
	clock   *clocktesting.FakeClock
	adopter *adopterLog
	log     *lines
	dir     string
	source  *Kubernetes
}

func newCluster(t *testing.T) *clusterFixture {
	t.Helper()
	f := &clusterFixture{api: newStandIn(t), clock: clocktesting.NewFakeClock(time.Unix(1000, 0)), adopter: &adopterLog{}, log: &lines{}, dir: t.TempDir()}
	f.make(t)
	return f
}

func (f *clusterFixture) make(t *testing.T) {
	t.Helper()
	source, err := NewKubernetes(KubernetesConfig{REST: f.api.rest(), Namespace: testNamespace, Name: testGroup, StateDir: f.dir,
		Adopter: f.adopter, Clock: f.clock, Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	f.source = source
}

// run runs the source; the returned function ends it and waits, and may be called again.
func (f *clusterFixture) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	source := f.source
	go func() {
		defer close(ended)
		if err := source.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// until steps the clock until the condition holds.
func (f *clusterFixture) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		f.clock.Step(time.Second)
		return holds()
	})
}

func TestGroupIsFollowedByNameOnly(t *testing.T) {
	f := newCluster(t)
	f.api.set(liveGroup("uid-1", 1))
	f.run(t)
	eventually(t, "adoption and watch", func() bool { return f.adopter.count() == 1 && f.api.watches() == 1 })
	if first := f.adopter.last(); first.stale || first.group.UID != "uid-1" || first.group.Spec.Sessions.Creation == "" {
		t.Errorf("adopted %+v", first)
	}
	for _, r := range f.api.seen(http.MethodGet) {
		if r.path != groupsPath || len(r.query["fieldSelector"]) != 1 || r.query["fieldSelector"][0] != "metadata.name="+testGroup {
			t.Errorf("asked for %s %v", r.path, r.query)
		}
	}
	next := liveGroup("uid-1", 2)
	next.Spec.Workers = 8
	f.api.set(next)
	eventually(t, "adoption of the change", func() bool { return f.adopter.count() == 2 })
	// A write of the status alone is no news for the adopter.
	next.Status.PodName = "pod"
	f.api.set(next)
	last := liveGroup("uid-1", 3)
	f.api.set(last)
	eventually(t, "adoption of the last", func() bool { return f.adopter.last().group.Generation == 3 })
	if f.adopter.count() != 3 {
		t.Errorf("%d adoptions", f.adopter.count())
	}
	kept, err := loadGroup(f.dir, testNamespace, testGroup)
	eventually(t, "the last spec is persisted", func() bool {
		kept, err = loadGroup(f.dir, testNamespace, testGroup)
		return err == nil && kept != nil && kept.Generation == 3
	})
}

func TestWatchStartsAgain(t *testing.T) {
	f := newCluster(t)
	f.api.set(liveGroup("uid-1", 1))
	f.run(t)
	eventually(t, "watch", func() bool { return f.api.watches() == 1 && f.adopter.count() == 1 })
	for generation := int64(2); generation < 6; generation++ {
		f.api.hangUp()
		f.api.set(liveGroup("uid-1", generation))
		f.until(t, "adoption of what was missed", func() bool { return f.adopter.last().group.Generation == generation && f.api.watches() == 1 })
	}
}

func TestStartWithoutAPIServerUsesThePersistedSpec(t *testing.T) {
	f := newCluster(t)
	if err := saveGroup(f.dir, liveGroup("uid-1", 7)); err != nil {
		t.Fatal(err)
	}
	f.api.refuseWith(func(*http.Request) *metav1.Status { return status(503, metav1.StatusReasonServiceUnavailable) })
	f.api.set(liveGroup("uid-1", 7))
	f.run(t)
	eventually(t, "stale adoption", func() bool { return f.adopter.count() == 1 })
	if first := f.adopter.last(); !first.stale || first.group.Generation != 7 {
		t.Errorf("adopted %+v", first)
	}
	f.until(t, "several attempts", func() bool { return len(f.api.seen(http.MethodGet)) > 3 })
	if f.log.containing("cannot be reached") != 1 {
		t.Errorf("the outage is told %d times", f.log.containing("cannot be reached"))
	}
	f.api.refuseWith(nil)
	f.until(t, "confirmation", func() bool { return f.adopter.count() == 2 })
	if second := f.adopter.last(); second.stale {
		t.Error("what the API server says is called stale")
	}
}

func TestStartDoesNotWaitForADeadServer(t *testing.T) {
	f := newCluster(t)
	if err := saveGroup(f.dir, liveGroup("uid-1", 7)); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	hanging := newHangingServer(held)
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(held) })
	source, err := NewKubernetes(KubernetesConfig{REST: &rest.Config{Host: hanging.URL}, Namespace: testNamespace, Name: testGroup,
		StateDir: f.dir, Adopter: f.adopter, Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	f.source = source
	stop := f.run(t)
	eventually(t, "stale adoption", func() bool { return f.adopter.count() == 1 && f.adopter.last().stale })
	stop()
}

func TestCorruptStateIsToldAndSurvived(t *testing.T) {
	f := newCluster(t)
	write(t, filepath.Join(f.dir, stateFile), `{"kind":"WorkerGroup","spec":{`)
	f.api.set(liveGroup("uid-1", 1))
	f.run(t)
	eventually(t, "live adoption", func() bool { return f.adopter.count() == 1 && !f.adopter.last().stale })
	if f.log.containing("persisted spec cannot be used") != 1 {
		t.Errorf("log: %v", f.log.all)
	}
	eventually(t, "the state is whole again", func() bool {
		group, err := loadGroup(f.dir, testNamespace, testGroup)
		return err == nil && group != nil
	})
}

func TestUnwritableStateIsToldAndSurvived(t *testing.T) {
	f := newCluster(t)
	f.dir = filepath.Join(f.dir, "missing")
	f.make(t)
	f.api.set(liveGroup("uid-1", 1))
	f.run(t)
	eventually(t, "live adoption and the log entry", func() bool { return f.adopter.count() == 1 && f.log.containing("spec not persisted") == 1 })
	if _, err := os.Stat(f.dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
}

func TestRefusalsAreNormalEnds(t *testing.T) {
	terminating := metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}
	for name, c := range map[string]struct {
		status *metav1.Status
		told   string
	}{
		"401":         {status(401, metav1.StatusReasonUnauthorized), "does not accept the router's token"},
		"403":         {status(403, metav1.StatusReasonForbidden), "may not read its WorkerGroup"},
		"404":         {status(404, metav1.StatusReasonNotFound), "does not know the kind"},
		"terminating": {status(403, metav1.StatusReasonForbidden, terminating), "namespace is being deleted"},
		"500":         {status(500, metav1.StatusReasonInternalError), "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newCluster(t)
			f.api.set(liveGroup("uid-1", 1))
			f.run(t)
			eventually(t, "adoption", func() bool { return f.adopter.count() == 1 && f.api.watches() == 1 })
			before := len(f.api.seen(http.MethodGet))
			f.api.refuseWith(func(*http.Request) *metav1.Status { return c.status })
			f.api.hangUp()
			f.until(t, "several attempts", func() bool { return len(f.api.seen(http.MethodGet)) > before+3 })
			if f.log.containing(c.told) != 1 {
				t.Errorf("%q is told %d times: %v", c.told, f.log.containing(c.told), f.log.all)
			}
			if f.adopter.count() != 1 {
				t.Error("something else was adopted")
			}
			f.api.refuseWith(nil)
			f.api.set(liveGroup("uid-1", 2))
			f.until(t, "healing", func() bool { return f.adopter.count() == 2 })
		})
	}
}

func TestRetriesSlowDown(t *testing.T) {
	f := newCluster(t)
	f.api.refuseWith(func(*http.Request) *metav1.Status { return status(403, metav1.StatusReasonForbidden) })
	f.run(t)
	f.until(t, "six attempts", func() bool { return len(f.api.seen(http.MethodGet)) >= 6 })
	eventually(t, "the sixth wait", f.clock.HasWaiters)
	before := len(f.api.seen(http.MethodGet))
	// The sixth delay is 30 s (32 s, capped), at least half of it after jitter: ten seconds bring no attempt.
	for range 10 {
		f.clock.Step(time.Second)
	}
	if after := len(f.api.seen(http.MethodGet)); after != before {
		t.Errorf("%d attempts in ten seconds of a back-off of fifteen and more", after-before)
	}
	if !f.clock.HasWaiters() {
		t.Error("the source does not wait")
	}
}

func TestDeletedAndForeignGroupsKeepTheLastSpec(t *testing.T) {
	f := newCluster(t)
	f.run(t)
	eventually(t, "the absence is told", func() bool { return f.log.containing("does not exist yet") == 1 && f.api.watches() == 1 })
	f.api.set(liveGroup("uid-1", 1))
	eventually(t, "adoption", func() bool { return f.adopter.count() == 1 })
	f.api.set(nil)
	eventually(t, "the end is told", func() bool { return f.log.containing("is gone; the last spec stays") == 1 })
	f.api.set(liveGroup("uid-2", 5))
	eventually(t, "the namesake is told", func() bool { return f.log.containing("another WorkerGroup has taken the name") == 1 })
	if f.adopter.count() != 1 || f.adopter.last().group.UID != "uid-1" {
		t.Errorf("adopted %+v", f.adopter.last().group)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	good := KubernetesConfig{REST: &rest.Config{Host: "localhost"}, Namespace: "ns", Name: "g", Adopter: &adopterLog{}}
	for want, spoil := range map[string]func(*KubernetesConfig){
		"--group":     func(c *KubernetesConfig) { c.Name = "" },
		"--namespace": func(c *KubernetesConfig) { c.Namespace = "" },
		"REST":        func(c *KubernetesConfig) { c.REST = nil },
		"Adopter":     func(c *KubernetesConfig) { c.Adopter = nil },
		"API client":  func(c *KubernetesConfig) { c.REST = &rest.Config{Host: "::bad::"} },
		"no such file ": func(c *KubernetesConfig) {
			c.REST = &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: "/missing"}}
		},
	} {
		config := good
		spoil(&config)
		if _, err := NewKubernetes(config); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	if _, err := NewKubernetes(good); err != nil {
		t.Error(err)
	}
}

package membership

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// KubernetesConfig of a Kubernetes source.
type KubernetesConfig struct {
	// REST says how the API server is reached, usually rest.InClusterConfig.
	REST *rest.Config
	// Namespace and Name of the one WorkerGroup that is followed. The router needs get, list, watch on it and patch on its
	// status, all limited to that name.
	Namespace, Name string
	// StateDir is a directory of this router alone, in which the last adopted spec is kept. Empty keeps nothing.
	StateDir string
	// Adopter gets every change of the group.
	Adopter Adopter
	// Clock of back-offs and of the Reporter; the real one when nil.
	Clock clock.Clock
	// Log gets one entry for each change of what the source can do, not one for each attempt.
	Log logr.Logger
}

// Kubernetes is the source of a router in a group's pod.
type Kubernetes struct {
	config   KubernetesConfig
	client   rest.Interface
	reporter *Reporter

	// The rest belongs to the goroutine of Run.
	current *v1alpha1.WorkerGroup // last adopted
	live    bool                  // current came from the API server
	told    string                // what the log said last
}

// NewKubernetes checks the configuration. It does not speak with the API server.
func NewKubernetes(config KubernetesConfig) (*Kubernetes, error) {
	switch {
	case config.REST == nil:
		return nil, errors.New("membership: KubernetesConfig.REST is not set")
	case config.Namespace == "" || config.Name == "":
		return nil, errors.New("the router needs the namespace and the name of its WorkerGroup: set --namespace and --group, or use --config FILE")
	case config.Adopter == nil:
		return nil, errors.New("membership: KubernetesConfig.Adopter is not set")
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	client, err := groupClient(config.REST)
	if err != nil {
		return nil, fmt.Errorf("API client: %w", err)
	}
	return &Kubernetes{
		config:   config,
		client:   client,
		reporter: newReporter(client, config.Namespace, config.Name, config.Clock, config.Log.WithName("reporter")),
	}, nil
}

// groupClient speaks only of the kinds of this project.
func groupClient(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	own := rest.CopyConfig(config)
	version := v1alpha1.GroupVersion
	own.GroupVersion = &version
	own.APIPath = "/apis"
	own.ContentType = runtime.ContentTypeJSON
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(own)
}

// Report gives the group's status its next content. It never blocks and may be called at any rate from any goroutine.
func (k *Kubernetes) Report(facts Facts) {
	k.reporter.Report(facts)
}

// Run adopts the persisted spec, if there is one, at once and as stale, then follows the group and writes what was
// reported, until ctx ends. It returns nil: no answer of the API server is a reason for a router to stop.
func (k *Kubernetes) Run(ctx context.Context) error {
	k.adoptPersisted()
	var reporting sync.WaitGroup
	reporting.Go(func() { k.reporter.Run(ctx) })
	k.follow(ctx)
	reporting.Wait()
	return nil
}

func (k *Kubernetes) adoptPersisted() {
	if k.config.StateDir == "" {
		return
	}
	group, err := loadGroup(k.config.StateDir, k.config.Namespace, k.config.Name)
	if err != nil {
		k.config.Log.Error(err, "persisted spec cannot be used; waiting for the API server", "dir", k.config.StateDir)
		return
	}
	if group == nil {
		return
	}
	k.current = group
	k.config.Log.Info("persisted spec adopted until the API server confirms it", "generation", group.Generation, "uid", group.UID)
	k.reporter.follow(group)
	k.config.Adopter.Adopt(group.DeepCopy(), true)
}

// observe takes one version of the group from the API server.
func (k *Kubernetes) observe(seen *v1alpha1.WorkerGroup) {
	if k.current != nil && k.current.UID != seen.UID {
		k.tell("another WorkerGroup has taken the name; the last spec stays in force", "uid", seen.UID, "own", k.current.UID)
		return
	}
	group := seen.DeepCopy()
	group.ManagedFields = nil
	Default(&group.Spec)
	k.reporter.follow(group)
	if k.live && sameWish(k.current, group) {
		return
	}
	k.current, k.live = group, true
	k.config.Log.Info("spec adopted", "generation", group.Generation, "workers", group.Spec.Workers, "podUID", group.Spec.PodUID,
		"draining", group.Spec.DrainRequest != nil)
	k.config.Adopter.Adopt(group.DeepCopy(), false)
	if k.config.StateDir == "" {
		return
	}
	if err := saveGroup(k.config.StateDir, group); err != nil {
		k.config.Log.Error(err, "spec not persisted: a router that restarts during an API outage would have an older one", "dir", k.config.StateDir)
	}
}

// sameWish says that nothing an adopter follows differs: the status is written many times more often than the spec.
func sameWish(a, b *v1alpha1.WorkerGroup) bool {
	return a.Generation == b.Generation && a.DeletionTimestamp.Equal(b.DeletionTimestamp) && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// tell logs a message unless it was the last one told.
func (k *Kubernetes) tell(message string, keysAndValues ...any) {
	if k.told == message {
		return
	}
	k.told = message
	k.config.Log.Info(message, keysAndValues...)
}

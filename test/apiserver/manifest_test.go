package apiserver

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// refused are changes to a good spec that the API server must refuse, with words that say what to do.
var refused = []struct{ name, spec, says string }{
	{"no workers", `{workers: null}`, "spec.workers: Required value"},
	{"no image", `{image: null}`, "spec.image: Required value"},
	{"no adapter", `{adapter: null}`, "spec.adapter: Required value"},
	{"negative workers", `{workers: -1}`, "greater than or equal to 0"},
	{"above the pod", `{workers: 33}`, "Raise placement.workersPerPod"},
	{"image with a blank", `{image: "a b"}`, "image must not contain white space; write it as registry/name:tag"},
	{"adapter without object", `{adapter: "module"}`, "for example my_package.my_module:MyAdapter"},
	{"adapter as a path", `{adapter: "app.py:App/x"}`, "adapter must be written as module:Class"},
	{"unknown protocol", `{protocol: HTTP}`, `supported values: "Snakepit"`},
	{"unknown profile", `{profile: Async}`, `supported values: "Process", "Thread"`},
	{"slots without threads", `{slots: 4}`, "set profile: Thread, or remove slots"},
	{"slots of a process", `{profile: Process, slots: 4}`, "set profile: Thread, or remove slots"},
	{"threads without slots", `{profile: Thread}`, "add slots: 2 to 256"},
	{"one slot", `{profile: Thread, slots: 1}`, "greater than or equal to 2"},
	{"too many slots", `{profile: Thread, slots: 257}`, "less than or equal to 256"},
	{"unknown affinity", `{sessions: {affinity: Sticky}}`, `"Hint", "StrictQueue", "StrictFailFast"`},
	{"idle time too short", `{sessions: {idleTimeout: 10ms}}`, "sessions.idleTimeout must be between 1s and 168h"},
	{"queue too long", `{queue: {maxLength: 1000000}}`, "less than or equal to 100000"},
	{"queue timeout", `{queue: {timeout: 2h}}`, "queue.timeout must be between 10ms and 1h"},
	{"a share twice", `{queue: {shares: [{tenant: a, weight: 1}, {tenant: a, weight: 2}]}}`, "give each tenant one entry"},
	{"a share of nothing", `{queue: {shares: [{tenant: a, weight: 0}]}}`, "greater than or equal to 1"},
	{"a share without tenant", `{queue: {shares: [{weight: 1}]}}`, "spec.queue.shares[0].tenant: Required value"},
	{"tenant too long", `{queue: {shares: [{tenant: "` + strings.Repeat("t", 65) + `", weight: 1}]}}`, "may not be more than 64"},
	{"tenant with a blank", `{queue: {shares: [{tenant: "a b", weight: 1}]}}`, "a tenant has only A-Z, a-z, 0-9"},
	{"call timeout", `{calls: {timeout: 48h}}`, "calls.timeout must be between 100ms and 24h"},
	{"kill too late", `{calls: {killAfter: 2h}}`, "calls.killAfter must be between 100ms and 1h"},
	{"stream timeout", `{calls: {streamTimeout: 200h}}`, "calls.streamTimeout must be between 100ms and 168h"},
	{"idle stream timeout", `{calls: {streamIdleTimeout: 0s}}`, "leave it out for no bound"},
	{"message too large", `{calls: {maxMessageBytes: 2147483648}}`, "less than or equal to 1073741824"},
	{"drain too short", `{drain: {timeout: 100ms}}`, "drain.timeout must be between 1s and 24h"},
	{"drain's end", `{drain: {onDeadline: Wait}}`, `supported values: "Terminate", "Hold"`},
	{"failover too early", `{failover: {after: 5s}}`, "failover.after must be between 10s and 1h"},
	{"failover too late", `{failover: {after: 2h}}`, "failover.after must be between 10s and 1h"},
	{"cleanup too short", `{cleanup: {timeout: 1s}}`, "cleanup.timeout must be between 10s and 24h"},
	{"no batch", `{startup: {batchSize: 0}}`, "greater than or equal to 1"},
	{"batch interval", `{startup: {batchInterval: 2m}}`, "startup.batchInterval must be between 0s (no pause) and 1m"},
	{"heartbeat interval", `{heartbeat: {interval: 2m}}`, "heartbeat.interval must be between 100ms and 1m"},
	{"heartbeat timeout", `{heartbeat: {timeout: 2h}}`, "heartbeat.timeout must be between 500ms and 1h"},
	{"heartbeat shorter than its interval", `{heartbeat: {interval: 20s}}`, "raise timeout, or lower interval"},
	{"heartbeat missed", `{heartbeat: {missed: 0}}`, "greater than or equal to 1"},
	{"no restart borne", `{crash: {maxRestarts: 0}}`, "greater than or equal to 1"},
	{"crash window", `{crash: {window: 25h}}`, "crash.window must be between 1s and 24h"},
	{"back-off too short", `{crash: {backoff: 1ms}}`, "crash.backoff must be between 10ms and 1h"},
	{"back-off too long", `{crash: {maxBackoff: 2h}}`, "crash.maxBackoff must be between 10ms and 1h"},
	{"back-off above its bound", `{crash: {backoff: 1m}}`, "lower backoff, or raise maxBackoff"},
	{"quarantine", `{crash: {quarantine: 200h}}`, "crash.quarantine must be between 0s (no quarantine) and 168h"},
	{"too young", `{recycle: {maxAge: 10ms}}`, "recycle.maxAge must be between 1s and 8760h; leave it out for no bound"},
	{"no request", `{recycle: {maxRequests: 0}}`, "greater than or equal to 1"},
	{"no memory", `{recycle: {maxMemory: 1}}`, "recycle.maxMemory must be between 1Mi and 16Ti; leave it out for no bound"},
	{"little memory", `{recycle: {maxMemory: 512Ki}}`, "recycle.maxMemory must be between 1Mi and 16Ti"},
	{"not an amount", `{recycle: {maxMemory: much}}`, "spec.recycle.maxMemory in body should match"},
	{"jitter", `{recycle: {jitter: 51}}`, "less than or equal to 50"},
	{"recycle deadline", `{recycle: {deadline: 0s}}`, "recycle.deadline must be between 1s and 24h"},
	{"misspelt", `{wokers: 3}`, `unknown field "spec.wokers"`},
	{"host network", `{template: {spec: {hostNetwork: true}}}`, `unknown field "spec.template.spec.hostNetwork"`},
	{"reserved label", `{template: {metadata: {labels: {snakepit.dev/pool: x}}}}`, "choose another prefix"},
	{"reserved annotation", `{template: {metadata: {annotations: {snakepit.dev/x: x}}}}`, "choose another prefix"},
	{"router container", `{template: {spec: {containers: [{name: router, image: x}]}}}`, "the container name router is reserved; rename the container"},
	{"worker as init container", `{template: {spec: {initContainers: [{name: worker, image: x}]}}}`, "rename the init container"},
	{"our port", `{template: {spec: {containers: [{name: side, image: x, ports: [{containerPort: 50051}]}]}}}`, "ports 50051 and 9464 belong to the router; choose other ports"},
	{"our volume", `{template: {spec: {volumes: [{name: snakepit-bridge, emptyDir: {}}]}}}`, "rename the volume"},
	{"mounting our volume", `{template: {spec: {containers: [{name: side, image: x, volumeMounts: [{name: snakepit-token, mountPath: /t}]}]}}}`, "declare a volume of your own"},
	{"our mount point", `{template: {spec: {containers: [{name: worker, volumeMounts: [{name: v, mountPath: /run/snakepit/bridge}]}], volumes: [{name: v, emptyDir: {}}]}}}`, "choose another mountPath"},
	{"worker's command", `{template: {spec: {containers: [{name: worker, command: [sh]}]}}}`, "use spec.image, spec.adapter and spec.args"},
	{"our variable", `{template: {spec: {containers: [{name: worker, env: [{name: SNAKEPIT_BRIDGE, value: x}]}]}}}`, "rename the variable"},
	{"no image beside", `{template: {spec: {containers: [{name: side}]}}}`, "needs an image"},
	{"privileged", `{template: {spec: {containers: [{name: worker, securityContext: {privileged: true}}]}}}`, "remove privileged, allowPrivilegeEscalation and capabilities.add"},
	{"capability", `{template: {spec: {containers: [{name: worker, securityContext: {capabilities: {add: [SYS_PTRACE]}}}]}}}`, "remove privileged, allowPrivilegeEscalation and capabilities.add"},
	{"root", `{template: {spec: {securityContext: {runAsUser: 0}}}}`, "do not run as root"},
	{"two containers of a name", `{template: {spec: {containers: [{name: a, image: x}, {name: a, image: y}]}}}`, "Duplicate value"},
}

func manifest(t *testing.T, namespace, name, change string) *unstructured.Unstructured {
	t.Helper()
	spec := map[string]any{"workers": 1, "image": "registry.example/works:1", "adapter": "app:App"}
	var edit map[string]any
	if err := yaml.Unmarshal([]byte(change), &edit); err != nil {
		t.Fatal(err)
	}
	for key, value := range edit {
		spec[key] = value
		if value == nil {
			delete(spec, key)
		}
	}
	raw, err := json.Marshal(map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": "WorkerPool",
		"metadata": map[string]any{"namespace": namespace, "name": name}, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRefusedManifests(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			u := manifest(t, "default", "bad", c.spec)
			err := server.Client.Create(t.Context(), u, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
			if err == nil || (!apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v\nwant it refused with %q", err, c.says)
			}
		})
	}
	for _, name := range []string{"9lives", strings.Repeat("n", 41), "with.dot"} {
		t.Run(name, func(t *testing.T) {
			err := server.Client.Create(t.Context(), manifest(t, "default", name, "{}"), client.DryRunAll)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "at most 40 characters, because it names a Service") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// accepted are what users may well write; each must pass, or a rule above is too wide.
var accepted = []struct{ name, spec string }{
	{"smallest", `{}`},
	{"none", `{workers: 0}`},
	{"many", `{workers: 256, placement: {workersPerPod: 256}}`},
	{"nested object", `{adapter: "pkg.sub.mod:factory.make"}`},
	{"threads", `{profile: Thread, slots: 256}`},
	{"recycling", `{recycle: {maxAge: 24h, maxRequests: 1000000, maxMemory: 1.5Gi, jitter: 0}}`},
	{"memory as a number", `{recycle: {maxMemory: 1073741824}}`},
	{"resources", `{template: {spec: {containers: [{name: worker, resources: {limits: {memory: 2Gi}}, env: [{name: A, value: b}]}]}}}`},
	{"sidecar", `{template: {spec: {containers: [{name: log, image: x, ports: [{containerPort: 8080}]}], volumes: [{name: data, emptyDir: {}}]}}}`},
	{"placement", `{template: {metadata: {labels: {team: a}}, spec: {nodeSelector: {gpu: "true"}, tolerations: [{key: gpu, operator: Exists}], serviceAccountName: mine}}}`},
	{"durations", `{calls: {timeout: 1h30m}, queue: {timeout: 500ms}}`},
}

func TestAcceptedManifests(t *testing.T) {
	for _, c := range accepted {
		t.Run(c.name, func(t *testing.T) {
			if err := server.Client.Create(t.Context(), manifest(t, "default", "good", c.spec), client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every sample is a good manifest.
func TestSamples(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(fixture.Root(), "config", "samples", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("samples: %v %v", paths, err)
	}
	for _, path := range paths {
		if out := kubectl(t, "apply", "--dry-run=server", "--validate=strict", "-f", path); !strings.Contains(out, "created") {
			t.Errorf("%s: %s", path, out)
		}
	}
}

// A pool that no operator has seen is not done, whoever asks: kstatus reads an empty status as done.
func TestDefaults(t *testing.T) {
	u := manifest(t, "default", "fresh", "{}")
	if err := server.Client.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Client.Delete(t.Context(), u) })
	pool := &v1alpha1.WorkerPool{}
	if err := server.Client.Get(t.Context(), client.ObjectKeyFromObject(u), pool); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status != metav1.ConditionUnknown || c.Reason != v1alpha1.ReasonPending {
		t.Errorf("conditions %s, want Ready=Unknown/Pending", fixture.Conditions(pool.Status.Conditions))
	}
	spec := pool.Spec
	if spec.Placement.WorkersPerPod != 32 || spec.Sessions.Affinity != v1alpha1.AffinityStrictQueue || spec.Sessions.MaxPerWorker != 16 ||
		spec.Queue.MaxLength != 1000 || spec.Calls.Timeout.Seconds() != 300 || spec.Calls.MaxMessageBytes != 100<<20 || spec.Drain.Timeout.Seconds() != 30 || spec.Sessions.Creation != "" {
		t.Errorf("defaults %+v", spec)
	}
}

// kubectl runs the real tool against the API server.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(config, server.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(fixture.Assets(), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "HOME="+t.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// Plain client-side apply stores the whole CRD in an annotation: it must fit.
func TestClientSideApply(t *testing.T) {
	crds := filepath.Join(fixture.Root(), "config", "crd", "bases")
	kubectl(t, "apply", "--server-side=false", "-f", crds)
	for _, name := range []string{"workerpools.snakepit.dev", "workergroups.snakepit.dev"} {
		text := kubectl(t, "get", "crd", name, "-o", `jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}`)
		if n := len(text); n < 1000 || n > 131072 {
			t.Errorf("%s: %d bytes in the annotation, want at most half of the 262144 that fit", name, n)
		}
	}
	if out := kubectl(t, "apply", "--server-side=false", "-f", crds); strings.Count(out, "unchanged") != 2 {
		t.Errorf("applied again: %s", out)
	}
}

// explain must say what a field does, its default and its values.
func TestExplain(t *testing.T) {
	for path, says := range map[string][]string{
		"wpool.spec.sessions":                 {"affinity", "maxPerWorker", "Hint, StrictQueue, StrictFailFast", "Defaults to 16", "ends a session that has nothing queued"},
		"wpool.spec.template.spec":            {"nodeSelector", "An entry named worker", "chooses nodes by label"},
		"wpool.spec.drain.timeout":            {"bound sessions are lost"},
		"wpool.spec.template.spec.containers": {"resources", "volumeMounts"},
		"wpool.spec.profile":                  {"Process Thread", "Thread as many as slots"},
		"wpool.spec.slots":                    {"thread_safe = True", "snakepit.server(thread_safe=True)"},
		"wpool.spec.recycle":                  {"private memory of a worker", "Defaults to 10", "maxRequests"},
		"wpool.spec.crash":                    {"CrashLooping", "REQUEST_QUARANTINED", "Defaults to 30s", "They may carry data of users"},
		"wpool.spec.heartbeat":                {"used no CPU time", "Defaults to 2s"},
		"wpool.spec.queue.shares":             {"snakepit-tenant", "Who is not listed has weight 1"},
		"wpool.spec.calls":                    {"in place of timeout. Defaults to 900s", "No bound by default"},
		"wpool.spec.startup":                  {"batchSize", "Defaults to 500ms"},
		"wgroup.spec.recycleRequest":          {"id", "slots", "snakepit.dev/recycle"},
		"wgroup.status.router.workers":        {"lastExit", "restarts"},
		"wgroup.spec.drainRequest":            {"deadline", "cause"},
	} {
		out := kubectl(t, "explain", path)
		for _, want := range says {
			if !strings.Contains(strings.ToLower(strings.Join(strings.Fields(out), " ")), strings.ToLower(want)) {
				t.Errorf("kubectl explain %s does not say %q:\n%s", path, want, out)
			}
		}
	}
}

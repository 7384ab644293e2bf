package membership

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func TestSmallestFile(t *testing.T) {
	spec, err := decodeSpec([]byte("workers: 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.WorkerGroupSpec{Workers: 2, PoolName: localPool}
	Default(&want)
	if spec.Workers != 2 || spec.PoolName != "local" || spec.Queue.Timeout.Duration != want.Queue.Timeout.Duration {
		t.Errorf("got %+v", spec)
	}
}

func TestWholeFile(t *testing.T) {
	spec, err := decodeSpec([]byte(`---
poolName: counter
workers: 0
adapter: snakepit.examples.counter:Counter
args: [a, b]
sessions: {affinity: Hint, idleTimeout: 90s, maxPerWorker: 3}
queue:
  timeout: 1.5s
calls:
drainRequest: {startedAt: "2026-01-01T00:00:00Z", deadline: "2026-01-01T00:01:00Z", cause: Deleted}
template: {spec: {nodeSelector: {a: b}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if spec.Sessions.Creation != v1alpha1.SessionCreationImplicit || spec.Sessions.IdleTimeout.Duration != 90*time.Second ||
		spec.Queue.Timeout.Duration != 1500*time.Millisecond || spec.Calls.Timeout.Duration != 300*time.Second ||
		spec.DrainRequest.Deadline.Sub(spec.DrainRequest.StartedAt.Time) != time.Minute || spec.Template == nil || len(spec.Args) != 2 {
		t.Errorf("got %+v", spec)
	}
}

func TestBadFilesSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		want     []string
	}{
		"nothing":       {"", []string{"workers: Required"}},
		"not an object": {"- 1\n", []string{"fields of WorkerGroup.spec"}},
		"not YAML":      {"workers: [\n", []string{"not valid YAML"}},
		"a duplicate":   {"workers: 1\nworkers: 2\n", []string{"workers", "already"}},
		"whole object":  {"kind: WorkerGroup\nspec: {workers: 1}\n", []string{"only the fields of its spec"}},
		"two documents": {"workers: 1\n---\nworkers: 2\n", []string{"more than one YAML document"}},
		"every bad field is listed": {
			"workers: 257\nwrong: 1\nsessions: {affinty: Hint, maxPerWorker: 0}\nqueue: {timeout: 5, maxLength: x}\ncalls: {timeout: 25h}\nprofile: Async\nslots: 1\nadapter: nope\n",
			[]string{"workers: Invalid value: 257: must be between 0 and 256", `unknown field "wrong"`, `unknown field "sessions.affinty"`,
				"sessions.maxPerWorker", "queue.timeout", "must be a duration such as", "queue.maxLength", "calls.timeout", "between 100ms and 24h",
				`profile: Unsupported value: "Async": supported values: "Process", "Thread"`, "slots: Invalid value: 1: must be between 2 and 256",
				"adapter must be written as module:Class", "10 bad"},
		},
		"wrong kinds": {
			"workers: 1.5\nsessions: 3\nargs: [1]\npoolName: 7\nimage: 'a b'\ndrainRequest: {deadline: tomorrow}\n",
			[]string{"workers", "whole number", "sessions", "must be an object", "args[0]", "put it in quotes", "poolName", "image must not contain white space",
				"drainRequest.startedAt: Required", "drainRequest.cause: Required", "drainRequest.deadline", "must be a time"},
		},
		"lists": {
			"workers: 1\nqueue: {shares: [{tenant: a, weight: 1}, {tenant: a, weight: 2}]}\n", []string{`queue.shares[1].tenant: Duplicate value: "a"`},
		},
		"entries of lists": {"workers: 1\nqueue: {shares: [{tenant: a b, weight: 1}]}\n", []string{"queue.shares[0].tenant", "a tenant has only"}},
		"boolean":          {"workers: 1\ncrash: {exposeMessages: 'yes'}\n", []string{"crash.exposeMessages", "true or false, without quotes"}},
		"pairs":            {"workers: 1\ncrash: {backoff: 1m}\nheartbeat: {interval: 30s}\n", []string{"2 bad", "lower backoff, or raise maxBackoff", "raise timeout, or lower interval"}},
		"parts of entries": {"workers: 1\nqueue: {shares: [{tenant: a}]}\n", []string{"queue.shares[0].weight: Required"}},
		"no list":          {"workers: 1\nqueue: {shares: {a: 1}}\n", []string{"queue.shares", "must be a list"}},
		"template":         {"workers: 1\ntemplate: {spec: {nodeSelctor: {a: b}}}\n", []string{`unknown field "template.spec.nodeSelctor"`}},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := decodeSpec([]byte(c.document))
			if err == nil {
				t.Fatalf("adopted as %+v", spec)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

func TestDecodeNeverPanics(t *testing.T) {
	word := rapid.SampledFrom([]string{"workers", "sessions", "queue", ":", " ", "\n", "{", "}", "[", "]", "1", "-1", "timeout", "5s", "null", "'", "---\n", "&a", "*a", "template", "args", "\x00", "é"})
	rapid.Check(t, func(t *rapid.T) {
		document := strings.Join(rapid.SliceOfN(word, 0, 30).Draw(t, "words"), "")
		spec, err := decodeSpec([]byte(document))
		if (spec == nil) == (err == nil) {
			t.Fatalf("%q: spec %v, error %v", document, spec, err)
		}
	})
}

func TestPersistedGroup(t *testing.T) {
	dir := t.TempDir()
	if group, err := loadGroup(dir, "ns", "g"); group != nil || err != nil {
		t.Fatalf("an empty directory gives %v, %v", group, err)
	}
	group := liveGroup("uid-1", 3)
	group.Status.PodName = "not kept"
	// What a crash in the middle of an earlier write left behind.
	write(t, filepath.Join(dir, stateFile+".tmp"), strings.Repeat("x", 10000))
	if err := saveGroup(dir, group); err != nil {
		t.Fatal(err)
	}
	kept, err := loadGroup(dir, group.Namespace, group.Name)
	if err != nil {
		t.Fatal(err)
	}
	if kept.UID != "uid-1" || kept.Generation != 3 || kept.Spec.Workers != group.Spec.Workers || kept.Spec.PodUID != group.Spec.PodUID || kept.Status.PodName != "" {
		t.Errorf("kept %+v", kept)
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile+".tmp")); !os.IsNotExist(err) {
		t.Errorf("the temporary file is left: %v", err)
	}
	if _, err := loadGroup(dir, group.Namespace, "other"); err == nil || !strings.Contains(err.Error(), "not about this router's group") {
		t.Errorf("another group's spec is taken: %v", err)
	}
}

func TestEveryCutOfThePersistedGroupIsRefused(t *testing.T) {
	dir := t.TempDir()
	group := liveGroup("uid-1", 3)
	if err := saveGroup(dir, group); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, stateFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		write(t, path, string(whole[:cut]))
		if kept, err := loadGroup(dir, group.Namespace, group.Name); err == nil {
			t.Fatalf("the first %d bytes are taken as %+v", cut, kept)
		}
	}
	bad := strings.Replace(string(whole), `"workers":2`, `"workers":-2`, 1)
	write(t, path, bad)
	if _, err := loadGroup(dir, group.Namespace, group.Name); err == nil || !strings.Contains(err.Error(), "workers") {
		t.Errorf("a spec outside of the limits is taken: %v", err)
	}
	write(t, path, strings.Repeat(" ", maxDocument+1))
	if _, err := loadGroup(dir, group.Namespace, group.Name); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file without bound is read: %v", err)
	}
	if err := saveGroup(filepath.Join(dir, "missing"), group); err == nil {
		t.Error("writing into a directory that is not there succeeds")
	}
}

package resources

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// restrictedStandard is Kubernetes' own reading of the restricted Pod Security Standard.
func restrictedStandard(t interface{ Fatal(...any) }) policy.Evaluator {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return evaluator
}

// breaches says what a template took from the operator; nothing when the template was refused.
func breaches(standard policy.Evaluator, template *v1alpha1.PodTemplate) []string {
	plain, err := MakePod(newGroup(), 0, "router:1")
	if err != nil {
		return []string{err.Error()}
	}
	group := newGroup()
	group.Spec.Template = template
	pod, err := MakePod(group, 0, "router:1")
	if err != nil {
		return nil
	}
	var found []string
	say := func(bad bool, what string) {
		if bad {
			found = append(found, what)
		}
	}
	for key, value := range plain.Labels {
		say(pod.Labels[key] != value, "label "+key)
	}
	for key := range pod.Labels {
		_, ours := plain.Labels[key]
		say(!ours && strings.HasPrefix(key, reservedKeyPrefix), "new label "+key)
	}
	for key := range pod.Annotations {
		say(strings.HasPrefix(key, reservedKeyPrefix), "annotation "+key)
	}
	say(!equality.Semantic.DeepEqual(pod.OwnerReferences, plain.OwnerReferences), "owner")
	say(pod.Name != plain.Name || pod.Namespace != plain.Namespace, "name")

	spec, was := &pod.Spec, &plain.Spec
	say(spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.ShareProcessNamespace != nil || spec.HostUsers != nil || spec.NodeName != "", "host namespaces")
	say(spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken, "automatic token")
	say(spec.RestartPolicy != was.RestartPolicy || spec.ActiveDeadlineSeconds != nil || *spec.TerminationGracePeriodSeconds != *was.TerminationGracePeriodSeconds, "life of the pod")
	say(len(spec.EphemeralContainers) > 0, "ephemeral container")
	say(len(spec.Volumes) < len(was.Volumes) || !equality.Semantic.DeepEqual(spec.Volumes[:len(was.Volumes)], was.Volumes), "our volumes")
	for _, v := range spec.Volumes[min(len(was.Volumes), len(spec.Volumes)):] {
		say(strings.HasPrefix(v.Name, reservedVolumePrefix), "second volume "+v.Name)
		if v.Projected != nil && spec.ServiceAccountName == was.ServiceAccountName {
			say(slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.ServiceAccountToken != nil }), "the router's token")
		}
	}
	found = append(found, containerBreaches(spec, was)...)
	for i := range spec.Volumes {
		// The API server's default for a volume without a source.
		if spec.Volumes[i].VolumeSource == (corev1.VolumeSource{}) {
			spec.Volumes[i].EmptyDir = &corev1.EmptyDirVolumeSource{}
		}
	}
	if r := policy.AggregateCheckResults(standard.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &pod.ObjectMeta, spec)); !r.Allowed {
		found = append(found, "restricted standard: "+r.ForbiddenDetail())
	}
	return found
}

func containerBreaches(spec, was *corev1.PodSpec) (found []string) {
	say := func(bad bool, what string) {
		if bad {
			found = append(found, what)
		}
	}
	last := len(spec.InitContainers) - 1
	say(!equality.Semantic.DeepEqual(spec.InitContainers[last], was.InitContainers[0]), "the router container")
	worker, base := spec.Containers[0], was.Containers[0]
	say(worker.Name != base.Name || worker.Image != base.Image || !slices.Equal(worker.Command, base.Command) || !slices.Equal(worker.Args, base.Args) ||
		worker.Lifecycle != nil || worker.LivenessProbe != nil || worker.ReadinessProbe != nil || worker.StartupProbe != nil || worker.RestartPolicy != nil, "the worker container")
	for _, e := range base.Env {
		if strings.HasPrefix(e.Name, reservedEnvPrefix) {
			same := func(o corev1.EnvVar) bool { return equality.Semantic.DeepEqual(o, e) }
			say(!slices.ContainsFunc(worker.Env, same), "variable "+e.Name)
		}
	}
	for _, m := range base.VolumeMounts {
		if m.Name != volumeTmp { // /tmp may be another volume
			say(!hasMount(worker.VolumeMounts, m), "mount "+m.MountPath)
		}
	}
	others := slices.Concat(spec.InitContainers[:last], spec.Containers)
	for i, c := range others {
		isWorker := i == last
		say(c.Name == v1alpha1.RouterContainer || (c.Name == v1alpha1.WorkerContainer) != isWorker, "a second "+c.Name)
		for _, m := range c.VolumeMounts {
			ours := strings.HasPrefix(m.Name, reservedVolumePrefix)
			say(ours && (!isWorker || !hasMount(base.VolumeMounts, m)), c.Name+" mounts "+m.Name)
			say(!ours && covers(m.MountPath), c.Name+" mounts over "+m.MountPath)
		}
		for _, p := range c.Ports {
			say(p.ContainerPort == v1alpha1.PortGRPC || p.ContainerPort == v1alpha1.PortAdmin || p.Name == v1alpha1.PortNameGRPC || p.Name == v1alpha1.PortNameAdmin, "the router's port")
		}
		s := c.SecurityContext
		say(s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem, c.Name+" writes to its root")
	}
	return found
}

func hasMount(list []corev1.VolumeMount, m corev1.VolumeMount) bool {
	return slices.ContainsFunc(list, func(o corev1.VolumeMount) bool { return equality.Semantic.DeepEqual(o, m) })
}

// tricks are templates that try to reach what is the operator's. Each is a seed of the fuzzer.
var tricks = []string{
	`{}`,
	`{"metadata":{"labels":{"snakepit.dev/pool":"x","team":"a"},"annotations":{"container.apparmor.security.beta.kubernetes.io/worker":"unconfined"}}}`,
	`{"metadata":{"labels":{"$patch":"delete","app.kubernetes.io/name":"x"}}}`,
	`{"spec":{"$patch":"replace","containers":[{"name":"worker","$patch":"delete"},{"name":"worker"}]}}`,
	`{"spec":{"containers":[{"name":"worker","env":[{"name":"$patch","value":"replace"}],"resources":{"limits":{"$patch":"1"}}}]}}`,
	`{"spec":{"containers":[{"name":"worker","volumeMounts":[{"name":"v","mountPath":"/run/../run/snakepit/bridge"},{"name":"v","mountPath":"var/run/secrets"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}`,
	`{"spec":{"containers":[{"name":"a","image":"x","ports":[{"name":"grpc","containerPort":8080}]},{"name":"a","image":"x","ports":[{"containerPort":1,"hostPort":80}]}]}}`,
	`{"spec":{"initContainers":[{"name":"router","image":"x","restartPolicy":"Always"}],"ephemeralContainers":[{"name":"e"}],"hostNetwork":true,"hostPID":true}}`,
	`{"spec":{"containers":[{"name":"worker","restartPolicy":"Never"}]}}`,
	`{"spec":{"volumes":[{}]}}`,
	`{"spec":{"volumes":[{"name":"h","hostPath":{"path":"/"}}]}}`,
	`{"spec":{"volumes":[{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]}}`,
	`{"spec":{"serviceAccountName":"demo-router","volumes":[{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]}}`,
	`{"spec":{"securityContext":{"sysctls":[{"name":"kernel.msgmax","value":"1"}],"seLinuxOptions":{"user":"root"},"appArmorProfile":{"type":"Unconfined"}}}}`,
	`{"spec":{"containers":[{"name":"worker","securityContext":{"windowsOptions":{"hostProcess":true},"procMount":"Unmasked","capabilities":{"drop":[]}}}]}}`,
	`{"spec":{"securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"x"},"runAsUser":1,"fsGroup":0}}}`,
	`{"spec":{"containers":[{"name":"worker","lifecycle":{"postStart":{"httpGet":{"host":"192.0.2.1","port":1}}}},{"name":"b","livenessProbe":{"httpGet":{"host":"192.0.2.1","port":1}}}]}}`,
}

// FuzzTemplate: whatever a template says, it is refused or leaves everything of the operator's as it is.
func FuzzTemplate(f *testing.F) {
	for _, trick := range tricks {
		f.Add([]byte(trick))
	}
	standard := restrictedStandard(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var template v1alpha1.PodTemplate
		if json.Unmarshal(text, &template) != nil {
			return
		}
		if found := breaches(standard, &template); len(found) > 0 {
			t.Errorf("%s\n%s", text, strings.Join(found, "\n"))
		}
	})
}

// The same with templates put together from the names and paths that matter.
func TestTemplateProperty(t *testing.T) {
	standard := restrictedStandard(t)
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.Marshal(drawTemplate(t))
		if err != nil {
			t.Fatal(err)
		}
		var template v1alpha1.PodTemplate
		if err := json.Unmarshal(text, &template); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if found := breaches(standard, &template); len(found) > 0 {
			t.Errorf("%s\n%s", text, strings.Join(found, "\n"))
		}
	})
}

type object = map[string]any

func one[T any](t *rapid.T, label string, from ...T) T { return rapid.SampledFrom(from).Draw(t, label) }

// some is a list of up to two of what draw makes; usually none, so that not every template is refused.
func some(t *rapid.T, label string, draw func() object) []object {
	var list []object
	for range one(t, "number of "+label, 0, 0, 1, 2) {
		list = append(list, draw())
	}
	return list
}

func drawTemplate(t *rapid.T) object {
	keys := func() object {
		return object{one(t, "key", "team", "app.kubernetes.io/name", "snakepit.dev/serving", "$patch", "container.apparmor.security.beta.kubernetes.io/x"): "x"}
	}
	spec := object{
		"containers":     some(t, "containers", func() object { return drawContainer(t) }),
		"initContainers": some(t, "initContainers", func() object { return drawContainer(t) }),
		"volumes":        some(t, "volumes", func() object { return drawVolume(t) }),
	}
	if one(t, "pod security", false, true) {
		spec["securityContext"] = drawSecurity(t)
	}
	spec["serviceAccountName"] = one(t, "account", "", "", "mine", "demo-router")
	return object{"metadata": object{"labels": keys(), "annotations": keys()}, "spec": spec}
}

func drawVolume(t *rapid.T) object {
	v := one(t, "kind", object{"emptyDir": object{}}, object{"secret": object{"secretName": "s"}}, object{"hostPath": object{"path": "/"}}, object{"nfs": object{"server": "s", "path": "/"}},
		object{"projected": object{"sources": []object{{"serviceAccountToken": object{"path": "t"}}}}}, object{"configMap": object{"name": "c"}, "hostPath": object{"path": "/"}})
	v = maps.Clone(v)
	v["name"] = one(t, "volume", "data", "other", volumeToken, volumeBridge)
	return v
}

func drawContainer(t *rapid.T) object {
	c := object{"name": one(t, "name", "worker", "worker", "log", "router", "$patch")}
	if c["name"] != "worker" {
		c["image"] = "x"
	}
	if one(t, "policy", false, false, true) {
		c["restartPolicy"] = one(t, "restartPolicy", "Always", "Never")
	}
	c["env"] = some(t, "env", func() object {
		return object{"name": one(t, "variable", "HOME", "A", "SNAKEPIT_BRIDGE", "$patch"), "value": "replace"}
	})
	c["volumeMounts"] = some(t, "mounts", func() object {
		return object{"name": one(t, "mounted", "data", volumeToken, volumeHome),
			"mountPath": one(t, "path", "/data", "/tmp", "/run/snakepit/bridge", "/run//snakepit", "/x/../run", "/home/worker/", "home/worker", "/", "/run/secrets/kubernetes.io/serviceaccount")}
	})
	c["ports"] = some(t, "ports", func() object {
		return object{"name": one(t, "port name", "", "http", "grpc", "admin"), "containerPort": one(t, "port", 80, 50051, 9464), "hostPort": one(t, "host port", 0, 0, 80)}
	})
	if one(t, "security", false, true) {
		c["securityContext"] = drawSecurity(t)
	}
	return c
}

// drawSecurity sets one field; the same names are in a pod's and a container's, or are ignored there.
func drawSecurity(t *rapid.T) object {
	return one(t, "field", object{"runAsUser": 1}, object{"runAsUser": 0}, object{"runAsNonRoot": false}, object{"privileged": true}, object{"allowPrivilegeEscalation": true},
		object{"capabilities": object{"drop": []string{"NET_RAW"}}}, object{"capabilities": object{"add": []string{"SYS_ADMIN"}}}, object{"readOnlyRootFilesystem": false},
		object{"procMount": "Unmasked"}, object{"seccompProfile": object{"type": "Unconfined"}}, object{"seccompProfile": object{"type": ""}},
		object{"appArmorProfile": object{"type": "Unconfined"}}, object{"seLinuxOptions": object{"type": "spc_t"}}, object{"seLinuxOptions": object{"level": "s0"}},
		object{"windowsOptions": object{"hostProcess": true}}, object{"sysctls": []object{{"name": "net.core.somaxconn", "value": "1"}}}, object{"runAsGroup": 0}, object{"fsGroup": 0})
}

package resources

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// refused says what of the template cannot be had, with path and next step.
func refused(spec *v1alpha1.PodTemplateSpec) error {
	var errs []error
	for i := range spec.Volumes {
		errs = append(errs, refusedVolume(fmt.Sprintf("template.spec.volumes[%d]", i), &spec.Volumes[i], spec.ServiceAccountName))
	}
	for _, c := range spec.Containers {
		errs = append(errs, refusedContainer("containers", &c, c.Name == v1alpha1.WorkerContainer))
	}
	for _, c := range spec.InitContainers {
		errs = append(errs, refusedContainer("initContainers", &c, false))
	}
	if s := spec.SecurityContext; s != nil {
		if !ptr.Deref(s.RunAsNonRoot, true) || ptr.Deref(s.RunAsUser, numericUser) == 0 {
			errs = append(errs, errors.New("template.spec.securityContext: pods of a pool do not run as root; remove runAsNonRoot: false and runAsUser: 0"))
		}
		if len(s.Sysctls) > 0 || s.WindowsOptions != nil || weakSELinux(s.SELinuxOptions) {
			errs = append(errs, errors.New("template.spec.securityContext: sysctls, windowsOptions and the user, role or unusual type of seLinuxOptions are refused; remove them"))
		}
		errs = append(errs, refusedProfiles("template.spec.securityContext", s.SeccompProfile, s.AppArmorProfile))
	}
	return errors.Join(errs...)
}

// refusedVolume keeps to the kinds of the restricted standard, and the router's token out of other containers.
func refusedVolume(path string, v *corev1.Volume, account string) error {
	if strings.HasPrefix(v.Name, reservedVolumePrefix) {
		return fmt.Errorf("%s.name: %s is reserved; rename the volume", path, v.Name)
	}
	s := v.VolumeSource
	if s.Projected != nil && (account == "" || strings.HasSuffix(account, v1alpha1.RouterAccountSuffix)) {
		for _, source := range s.Projected.Sources {
			if source.ServiceAccountToken != nil {
				return fmt.Errorf("%s.projected: a token of a router's account is for the router alone; name an account of your own, not ending in %s, in template.spec.serviceAccountName", path, v1alpha1.RouterAccountSuffix)
			}
		}
	}
	// What is left after these are taken out is of another kind. A source that names no kind is the API server's to refuse.
	s.ConfigMap, s.CSI, s.DownwardAPI, s.EmptyDir, s.Ephemeral, s.PersistentVolumeClaim, s.Projected, s.Secret, s.Image = nil, nil, nil, nil, nil, nil, nil, nil, nil
	if s != (corev1.VolumeSource{}) {
		return fmt.Errorf("%s: only configMap, csi, downwardAPI, emptyDir, ephemeral, image, persistentVolumeClaim, projected and secret volumes are allowed; use a persistentVolumeClaim", path)
	}
	return nil
}

func refusedContainer(list string, c *corev1.Container, worker bool) error {
	at := fmt.Sprintf("template.spec.%s[%s]", list, c.Name)
	var errs []error
	say := func(bad bool, field, what string) {
		if bad {
			errs = append(errs, fmt.Errorf("%s.%s: %s", at, field, what))
		}
	}
	say(c.Name == v1alpha1.RouterContainer || (c.Name == v1alpha1.WorkerContainer && !worker), "name", "the name is reserved; rename the container")
	if worker {
		say(c.RestartPolicy != nil || c.RestartPolicyRules != nil, "restartPolicy", "the worker container is always restarted; remove it")
		owned := c.Image != "" || c.Command != nil || c.Args != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Lifecycle != nil
		say(owned, "image", "image, command, args, lifecycle and probes of the worker container belong to the operator; use spec.image, spec.adapter and spec.args")
	}
	say(namesHost(c), "probes", "probes and hooks ask the pod itself; remove host")
	for _, e := range c.Env {
		say(strings.HasPrefix(e.Name, reservedEnvPrefix), "env["+e.Name+"]", "variables that start with SNAKEPIT_ are reserved; rename it")
	}
	for _, m := range c.VolumeMounts {
		say(strings.HasPrefix(m.Name, reservedVolumePrefix), "volumeMounts["+m.Name+"]", "the volume is the operator's; declare one of your own")
		say(covers(m.MountPath), "volumeMounts["+m.Name+"].mountPath", m.MountPath+" belongs to the operator; choose another path")
	}
	for _, p := range c.Ports {
		say(p.ContainerPort == v1alpha1.PortGRPC || p.ContainerPort == v1alpha1.PortAdmin, "ports", fmt.Sprintf("port %d belongs to the router; choose another", p.ContainerPort))
		// The Service and the probes find the router's ports by these names.
		say(p.Name == v1alpha1.PortNameGRPC || p.Name == v1alpha1.PortNameAdmin, "ports", "the port name "+p.Name+" belongs to the router; rename the port")
		say(p.HostPort != 0 || p.HostIP != "", "ports", "ports of the node are refused; remove hostPort and hostIP")
	}
	if s := c.SecurityContext; s != nil {
		weaker := ptr.Deref(s.Privileged, false) || ptr.Deref(s.AllowPrivilegeEscalation, false) || !ptr.Deref(s.RunAsNonRoot, true) ||
			!ptr.Deref(s.ReadOnlyRootFilesystem, true) || ptr.Deref(s.RunAsUser, numericUser) == 0 || (s.Capabilities != nil && len(s.Capabilities.Add) > 0) || s.ProcMount != nil || s.WindowsOptions != nil || weakSELinux(s.SELinuxOptions)
		say(weaker, "securityContext", "containers of a pool run without privileges, as non-root, on a read-only root file system; remove what asks for more")
		errs = append(errs, refusedProfiles(at+".securityContext", s.SeccompProfile, s.AppArmorProfile))
	}
	return errors.Join(errs...)
}

// namesHost says whether a probe or hook would have the kubelet ask another host.
func namesHost(c *corev1.Container) bool {
	var asks []*corev1.HTTPGetAction
	var dials []*corev1.TCPSocketAction
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			asks, dials = append(asks, p.HTTPGet), append(dials, p.TCPSocket)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				asks, dials = append(asks, h.HTTPGet), append(dials, h.TCPSocket)
			}
		}
	}
	return slices.ContainsFunc(asks, func(a *corev1.HTTPGetAction) bool { return a != nil && a.Host != "" }) ||
		slices.ContainsFunc(dials, func(d *corev1.TCPSocketAction) bool { return d != nil && d.Host != "" })
}

func refusedProfiles(path string, seccomp *corev1.SeccompProfile, appArmor *corev1.AppArmorProfile) error {
	if seccomp != nil && seccomp.Type != corev1.SeccompProfileTypeRuntimeDefault && seccomp.Type != corev1.SeccompProfileTypeLocalhost {
		return fmt.Errorf("%s.seccompProfile: %s is refused; use RuntimeDefault or Localhost", path, seccomp.Type)
	}
	if appArmor != nil && appArmor.Type != corev1.AppArmorProfileTypeRuntimeDefault && appArmor.Type != corev1.AppArmorProfileTypeLocalhost {
		return fmt.Errorf("%s.appArmorProfile: %s is refused; use RuntimeDefault or Localhost", path, appArmor.Type)
	}
	return nil
}

// weakSELinux says whether the options go beyond what the restricted standard allows: a level, and the types made for containers.
func weakSELinux(o *corev1.SELinuxOptions) bool {
	return o != nil && (o.User != "" || o.Role != "" || !slices.Contains([]string{"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}, o.Type))
}

// covers says whether a mount there would lie over a directory of the operator's, in it, or over one of its parents. Paths are read as the node
// reads them: from the root, and without dots.
func covers(mountPath string) bool {
	clean := path.Clean("/" + mountPath)
	for _, ours := range []string{"/run/snakepit", v1alpha1.WorkerHome, "/var/run/secrets/kubernetes.io", "/run/secrets/kubernetes.io"} {
		if clean == "/" || clean == ours || strings.HasPrefix(clean, ours+"/") || strings.HasPrefix(ours, clean+"/") {
			return true
		}
	}
	return false
}

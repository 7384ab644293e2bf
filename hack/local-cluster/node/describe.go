package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// describe adds what containerd's bundle says about a container. A bundle that
// is gone already leaves the names empty.
func (c *Container) describe(root string) {
	content, err := os.ReadFile(filepath.Join(TaskFolder(root, c.ID), "config.json"))
	if c.ID == "" || err != nil {
		return
	}
	var bundle struct{ Annotations map[string]string }
	if json.Unmarshal(content, &bundle) != nil {
		return
	}
	const prefix = "io.kubernetes.cri."
	c.Kind = bundle.Annotations[prefix+"container-type"]
	c.Namespace = bundle.Annotations[prefix+"sandbox-namespace"]
	c.Pod = bundle.Annotations[prefix+"sandbox-name"]
	c.Name = bundle.Annotations[prefix+"container-name"]
}

// Mounts are the mounts that belong to one pod or to one container.
type Mounts struct {
	Container string   `json:"container,omitempty"`
	PodUID    string   `json:"podUID,omitempty"`
	Paths     []string `json:"paths"`
}

var (
	mountOfPod       = regexp.MustCompile(`^/var/lib/kubelet/pods/([0-9a-f-]{32,36})/`)
	mountOfContainer = regexp.MustCompile(`^/run/containerd/.*/([0-9a-f]{64})/`)
)

// ParseMounts groups the mounts of pods and containers in a mountinfo file of
// the node. Those under the cluster's own folder repeat others and do not count.
func ParseMounts(mountinfo string) []Mounts {
	grouped := map[mountOwner]map[string]bool{}
	for _, line := range strings.Split(mountinfo, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		var key mountOwner
		if match := mountOfPod.FindStringSubmatch(fields[4]); match != nil {
			key.podUID = match[1]
		} else if match := mountOfContainer.FindStringSubmatch(fields[4]); match != nil {
			key.container = match[1]
		} else {
			continue
		}
		if grouped[key] == nil {
			grouped[key] = map[string]bool{}
		}
		grouped[key][fields[4]] = true
	}
	result := []Mounts{}
	for key, paths := range grouped {
		each := Mounts{Container: key.container, PodUID: key.podUID}
		for path := range paths {
			each.Paths = append(each.Paths, path)
		}
		sort.Strings(each.Paths)
		result = append(result, each)
	}
	sort.Slice(result, func(i, j int) bool { return result[i].Paths[0] < result[j].Paths[0] })
	return result
}

// mountOwner is the pod or the container of mounts.
type mountOwner struct{ container, podUID string }

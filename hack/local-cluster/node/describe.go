package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// bundle is what containerd's bundle of a container says about it.
type bundle struct {
	Annotations map[string]string
	Linux       struct{ CgroupsPath string }
}

// readBundle reads the bundle of a container; one that is gone already, or
// being made, gives an empty one.
func readBundle(root, id string) bundle {
	var b bundle
	content, err := os.ReadFile(filepath.Join(TaskFolder(root, id), "config.json"))
	if id == "" || err != nil || json.Unmarshal(content, &b) != nil {
		return bundle{}
	}
	return b
}

// describe adds the names of container and pod.
func (c *Container) describe(root string) {
	const prefix = "io.kubernetes.cri."
	annotations := readBundle(root, c.ID).Annotations
	c.Kind = annotations[prefix+"container-type"]
	c.Namespace = annotations[prefix+"sandbox-namespace"]
	c.Pod = annotations[prefix+"sandbox-name"]
	c.Name = annotations[prefix+"container-name"]
}

// Mounts are the mounts that belong to one container, or to a pod as a whole.
type Mounts struct {
	Container string   `json:"container,omitempty"`
	PodUID    string   `json:"podUID,omitempty"`
	Paths     []string `json:"paths"`
}

// mountOwner is the pod or the container that a mount is for.
type mountOwner struct{ container, podUID string }

var (
	mountOfPod       = regexp.MustCompile(`^/var/lib/kubelet/pods/([0-9a-f-]{32,36})/`)
	mountOfContainer = regexp.MustCompile(`^/run/containerd/.*/([0-9a-f]{64})/`)
)

// parseMounts groups the mounts of pods and containers in a mountinfo file of
// the node. Those under the cluster's own folder repeat others and do not count.
func parseMounts(mountinfo string) []Mounts {
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
	return sortMounts(grouped)
}

// PodMounts lists the mounts of the node whose first process and root file
// system are given, each with the pod it belongs to.
func PodMounts(pid int, root string) ([]Mounts, error) {
	mountinfo, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	all := parseMounts(string(mountinfo))
	for i, each := range all {
		if each.PodUID == "" {
			_, all[i].PodUID = owner(readBundle(root, each.Container).Linux.CgroupsPath)
		}
	}
	return all, nil
}

func sortMounts(grouped map[mountOwner]map[string]bool) []Mounts {
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

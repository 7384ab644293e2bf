package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Config is all that the first process of a node needs to know. It lies as
// node.json in the node's folder; the host side reads it from there too.
type Config struct {
	// Name is the cluster's name.
	Name string `json:"name"`
	// Nodes is the number of the cluster's nodes, 1 or 2.
	Nodes int `json:"nodes"`
	// IsSecond says that this is the second node, which has no control plane.
	IsSecond bool `json:"isSecond,omitempty"`
	// Dir is the node's folder; it has the same path inside and outside. The
	// first node's is the cluster's, and the second's lies in it.
	Dir     string  `json:"dir"`
	Network Network `json:"network"`
	// PauseImage is the name under which the sandbox image is imported.
	PauseImage string `json:"pauseImage"`
	// Kubernetes is the key of the Kubernetes build that the node runs.
	Kubernetes string `json:"kubernetes"`
}

// Network holds the addresses of one cluster, all from one 10.x.0.0/16.
type Network struct {
	HostIP string `json:"hostIP"`
	// NodeIP is the first node's, on the link to the host.
	NodeIP string `json:"nodeIP"`
	// Link is the link between the nodes, LinkIP the first node's address on
	// it and SecondIP the second node's.
	Link     string `json:"link"`
	LinkIP   string `json:"linkIP"`
	SecondIP string `json:"secondIP"`
	// Pods is the range of all pods; it holds each node's.
	Pods       string `json:"pods"`
	FirstPods  string `json:"firstPods"`
	SecondPods string `json:"secondPods"`
	Services   string `json:"services"`
	ServiceIP  string `json:"serviceIP"`
	DNS        string `json:"dns"`
	WholeRange string `json:"wholeRange"`
}

// NetworkIn gives the addresses in 10.block.0.0/16.
func NetworkIn(block int) Network {
	at := func(format string) string { return fmt.Sprintf(format, block) }
	return Network{
		WholeRange: at("10.%d.0.0/16"),
		HostIP:     at("10.%d.0.1"),
		NodeIP:     at("10.%d.0.2"),
		Services:   at("10.%d.16.0/20"),
		ServiceIP:  at("10.%d.16.1"),
		DNS:        at("10.%d.16.10"),
		Link:       at("10.%d.0.4/30"),
		LinkIP:     at("10.%d.0.5"),
		SecondIP:   at("10.%d.0.6"),
		Pods:       at("10.%d.128.0/19"),
		FirstPods:  at("10.%d.128.0/20"),
		SecondPods: at("10.%d.144.0/20"),
	}
}

// Second is the second node of the first node's cluster, whether it has one or
// not. The other names follow from the cluster's name and folder.
func (c Config) Second() Config {
	c.Dir, c.IsSecond = c.Path("second"), true
	return c
}

// All are the nodes that the first node's cluster has, the first one first.
func (c Config) All() []Config {
	if c.Nodes < 2 {
		return []Config{c}
	}
	return []Config{c, c.Second()}
}

// NodeName is the name under which the kubelet registers.
func (c Config) NodeName() string {
	if c.IsSecond {
		return c.Name + "-2"
	}
	return c.Name
}

// NodeIP is this node's address.
func (c Config) NodeIP() string {
	if c.IsSecond {
		return c.Network.SecondIP
	}
	return c.Network.NodeIP
}

// PodRange holds the pods of this node.
func (c Config) PodRange() string {
	if c.IsSecond {
		return c.Network.SecondPods
	}
	return c.Network.FirstPods
}

// Path gives a path in the node's folder.
func (c Config) Path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

// Socket is where containerd listens, reachable from inside and outside.
func (c Config) Socket() string { return c.Path("run", "containerd", "containerd.sock") }

// Log is where the output of a component goes.
func (c Config) Log(component string) string { return c.Path("log", component+".log") }

// CgroupRoot is the node's folder in every cgroup hierarchy, as a cgroup path.
// No cluster's name has a dot, so the second node's is nobody else's.
func (c Config) CgroupRoot() string {
	if c.IsSecond {
		return "/snakepit-" + c.Name + ".2"
	}
	return "/snakepit-" + c.Name
}

// HostInterface names the host's end of the veth pair. Interface names have at
// most 15 characters and share one name space with the machine's own, so the
// cluster's name is hashed.
func (c Config) HostInterface() string {
	sum := sha256.Sum256([]byte(c.Name))
	return "spk" + hex.EncodeToString(sum[:5])
}

// Server is the address of the API server.
func (c Config) Server() string { return "https://" + c.Network.NodeIP + ":6443" }

// Save writes node.json.
func (c Config) Save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	temporary := c.Path("node.json.new")
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, c.Path("node.json"))
}

// Load reads the node.json of the cluster in dir.
func Load(dir string) (Config, error) {
	var c Config
	data, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "node.json"), err)
	}
	return c, nil
}

package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Config is all that the first process of a cluster needs to know. It lies as
// node.json in the cluster's folder; the host side reads it from there too.
type Config struct {
	// Name is the cluster's name, and its node's.
	Name string `json:"name"`
	// Dir is the cluster's folder; it has the same path inside and outside.
	Dir     string  `json:"dir"`
	Network Network `json:"network"`
	// PauseImage is the name under which the sandbox image is imported.
	PauseImage string `json:"pauseImage"`
	// Kubernetes is the key of the Kubernetes build that the node runs.
	Kubernetes string `json:"kubernetes"`
}

// Network holds the addresses of one cluster, all from one 10.x.0.0/16.
type Network struct {
	HostIP     string `json:"hostIP"`
	NodeIP     string `json:"nodeIP"`
	PodRange   string `json:"podRange"`
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
		PodRange:   at("10.%d.128.0/20"),
	}
}

// Path gives a path in the cluster's folder.
func (c Config) Path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

// Socket is where containerd listens, reachable from inside and outside.
func (c Config) Socket() string { return c.Path("run", "containerd", "containerd.sock") }

// Log is where the output of a component goes.
func (c Config) Log(component string) string { return c.Path("log", component+".log") }

// CgroupRoot is the cluster's folder in every cgroup hierarchy, as a cgroup path.
func (c Config) CgroupRoot() string { return "/snakepit-" + c.Name }

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

package hostlink

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// Blocks 64–255 of 10.0.0.0/8 are tried; lower ones are the most used elsewhere.
const (
	firstBlock = 64
	blocks     = 192
)

// Choose gives the first range of 10.x.0.0/16, from a place that the
// name decides, that overlaps none in use.
func Choose(name string, used []netip.Prefix) (node.Network, error) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	start := int(hash.Sum32() % blocks)
	for i := range blocks {
		network := node.NetworkIn(firstBlock + (start+i)%blocks)
		if !overlapsAny(netip.MustParsePrefix(network.WholeRange), used) {
			return network, nil
		}
	}
	return node.Network{}, errors.New("every range from 10.64.0.0/16 to 10.255.0.0/16 is in use on this machine; free one (see: ip route)")
}

func overlapsAny(prefix netip.Prefix, used []netip.Prefix) bool {
	for _, each := range used {
		if prefix.Overlaps(each) {
			return true
		}
	}
	return false
}

// UsedRanges are the ranges of the machine's addresses and routes, and those of
// the clusters whose folders are in stateRoot, also of one that is just starting.
func UsedRanges(stateRoot string) ([]netip.Prefix, error) {
	var used []netip.Prefix
	output, err := exec.Command("ip", "-json", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("ip route: %w", err)
	}
	var routes []struct {
		Destination string `json:"dst"`
		Type        string `json:"type"`
	}
	if err := json.Unmarshal(output, &routes); err != nil {
		return nil, fmt.Errorf("ip route: %w", err)
	}
	for _, route := range routes {
		if prefix, ok := parseRange(route.Destination); ok {
			used = append(used, prefix)
		}
	}
	others, err := filepath.Glob(filepath.Join(stateRoot, "*", "node.json"))
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		config, err := node.Load(filepath.Dir(other))
		if err != nil {
			continue // it is being removed
		}
		if prefix, ok := parseRange(config.Network.WholeRange); ok {
			used = append(used, prefix)
		}
	}
	return used, nil
}

// parseRange reads an address or a prefix; the default route is none that is
// in the way.
func parseRange(text string) (netip.Prefix, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix, prefix.Bits() > 0
	}
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(address, address.BitLen()), true
	}
	return netip.Prefix{}, false
}

// Connect makes the veth pair between the host and the network namespace of
// the node's first process, and the routes to pods and Services.
func Connect(config node.Config, pid int) error {
	outside := config.HostInterface()
	commands := []string{
		"link add " + outside + " type veth peer name " + node.InsideInterface + " netns " + strconv.Itoa(pid),
		"addr add " + config.Network.HostIP + "/30 dev " + outside,
		"link set " + outside + " up",
		"route add " + config.Network.Pods + " via " + config.Network.NodeIP + " dev " + outside,
		"route add " + config.Network.Services + " via " + config.Network.NodeIP + " dev " + outside,
	}
	for _, command := range commands {
		if err := ip(command); err != nil {
			return err
		}
	}
	return nil
}

// Connected says that the host's end is there.
func Connected(config node.Config) bool {
	_, err := os.Stat("/sys/class/net/" + config.HostInterface())
	return err == nil
}

// Disconnect removes the host's end, and with it the routes. The other end and
// the interfaces of pods go with the node's namespace.
func Disconnect(config node.Config) error {
	if !Connected(config) {
		return nil
	}
	if err := ip("link del " + config.HostInterface()); err != nil && Connected(config) {
		return err
	}
	return nil // or the kernel was faster
}

func ip(command string) error {
	output, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(output)))
	}
	return nil
}

package hostlink

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

func TestChooseAvoidsEveryRangeInUse(t *testing.T) {
	var used []netip.Prefix
	for i := range blocks {
		network, err := Choose(fmt.Sprintf("cluster-%d", i), used)
		if err != nil {
			t.Fatalf("cluster %d of %d: %v", i, blocks, err)
		}
		whole := netip.MustParsePrefix(network.WholeRange)
		if overlapsAny(whole, used) {
			t.Fatalf("cluster %d got %s, which is in use", i, whole)
		}
		used = append(used, whole)
	}
	if network, err := Choose("one-more", used); err == nil {
		t.Errorf("with every range in use Choose gave %s", network.WholeRange)
	}
}

func TestChooseIsStable(t *testing.T) {
	first, err := Choose("spk-abc", nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := Choose("spk-abc", nil); again != first {
		t.Errorf("Choose gave %v, then %v for the same name", first, again)
	}
	// An address anywhere in the range makes it move.
	inUse := []netip.Prefix{netip.MustParsePrefix(first.NodeIP + "/32")}
	if other, _ := Choose("spk-abc", inUse); other.WholeRange == first.WholeRange {
		t.Errorf("Choose kept %s although %s is in use", first.WholeRange, first.NodeIP)
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.0.0/16": "10.1.0.0/16", "10.1.2.3": "10.1.2.3/32",
		// Neither is in the way of anything.
		"default": "", "0.0.0.0/0": "",
	} {
		got, ok := parseRange(text)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("parseRange(%q) = %v, %v; want %q", text, got, ok, want)
		}
	}
}

func TestRangesOfAClusterDoNotOverlap(t *testing.T) {
	for block := firstBlock; block < firstBlock+blocks; block++ {
		network := node.NetworkIn(block)
		parts := []netip.Prefix{
			netip.MustParsePrefix(network.HostIP + "/30").Masked(),
			netip.MustParsePrefix(network.Services), netip.MustParsePrefix(network.Pods), netip.MustParsePrefix(network.Link),
		}
		whole := netip.MustParsePrefix(network.WholeRange)
		for i, part := range parts {
			if !whole.Overlaps(part) || part.Bits() < whole.Bits() || overlapsAny(part, parts[:i]) {
				t.Fatalf("block %d: %s is not a part of its own of %s", block, part, whole)
			}
		}
		if !parts[0].Contains(netip.MustParseAddr(network.NodeIP)) {
			t.Fatalf("block %d: the node %s is not on the link %s", block, network.NodeIP, parts[0])
		}
		for _, address := range []string{network.LinkIP, network.SecondIP} {
			if !parts[3].Contains(netip.MustParseAddr(address)) {
				t.Fatalf("block %d: %s is not on the link %s", block, address, parts[3])
			}
		}
		pods := []netip.Prefix{netip.MustParsePrefix(network.FirstPods), netip.MustParsePrefix(network.SecondPods)}
		if pods[0].Overlaps(pods[1]) || !parts[2].Contains(pods[0].Addr()) || !parts[2].Contains(pods[1].Addr()) {
			t.Fatalf("block %d: %v are not two parts of %s", block, pods, parts[2])
		}
		for _, address := range []string{network.ServiceIP, network.DNS} {
			if !parts[1].Contains(netip.MustParseAddr(address)) {
				t.Fatalf("block %d: %s is not in %s", block, address, parts[1])
			}
		}
	}
}

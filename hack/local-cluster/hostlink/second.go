package hostlink

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// Join makes the link between the first processes of the two nodes, each known
// by its pid, and gives the first its end. The link is in the nodes'
// namespaces alone: what the host sends to the second goes by way of the first.
func Join(config node.Config, first, second int) error {
	err := ip("link add " + node.LinkInterface + " netns " + strconv.Itoa(first) +
		" type veth peer name " + node.InsideInterface + " netns " + strconv.Itoa(second))
	if err != nil {
		return err
	}
	if err := ipOf(first, "addr add "+config.Network.LinkIP+"/30 dev "+node.LinkInterface); err != nil {
		return err
	}
	return Restore(config, first)
}

// Cut takes the link down. The kernel drops the route through it; nothing on
// the second node changes but that it reaches nobody.
func Cut(first int) error {
	return ipOf(first, "link set "+node.LinkInterface+" down")
}

// Restore brings the link up, and the first node's route to the second's pods;
// again is no error.
func Restore(config node.Config, first int) error {
	if err := ipOf(first, "link set "+node.LinkInterface+" up"); err != nil {
		return err
	}
	return ipOf(first, "route replace "+config.Network.SecondPods+" via "+config.Network.SecondIP+" dev "+node.LinkInterface)
}

// ipOf runs ip in the network of a node's first process.
func ipOf(pid int, command string) error {
	args := append([]string{"--target", strconv.Itoa(pid), "--net", "--", "ip"}, strings.Fields(command)...)
	if output, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s in the first node: %w: %s", command, err, strings.TrimSpace(string(output)))
	}
	return nil
}

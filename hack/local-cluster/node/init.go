package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Go is the line that Run waits for on its standard input.
const Go = "go\n"

// InsideInterface is the node's end of the veth pair.
const InsideInterface = "eth0"

// LinkInterface is the first node's end of the link to the second.
const LinkInterface = "second"

// Run is the first process of the node whose folder is given. It expects to
// be started in new mount, PID, network, UTS and IPC namespaces, and waits for
// the Go line, which says that the host has put InsideInterface into the
// network namespace. It returns only when the node cannot be set up, or when
// its input ends before the Go line.
func Run(dir string) error {
	config, err := Load(dir)
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || line != Go {
		return errors.New("the program that started this node ended before the network was there")
	}
	if err := enterCgroups(config.CgroupRoot()); err != nil {
		return err
	}
	if err := config.enterRoot(); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(config.NodeName())); err != nil {
		return err
	}
	if err := config.setUpNetwork(); err != nil {
		return err
	}
	fmt.Printf("node %s is set up\n", config.NodeName())
	(&supervisor{config: config, ends: map[int]chan syscall.WaitStatus{}}).run()
	return nil
}

func (c Config) setUpNetwork() error {
	// The only route besides the link's own: a packet to a Service needs one
	// before it is translated. There is none to the rest of the world.
	route := c.Network.Services + " via " + c.Network.HostIP
	if c.IsSecond {
		// All of the cluster is on the other side of the first node.
		route = c.Network.WholeRange + " via " + c.Network.LinkIP
	}
	for _, command := range []string{
		"link set lo up",
		"addr add " + c.NodeIP() + "/30 dev " + InsideInterface,
		"link set " + InsideInterface + " up",
		"route add " + route + " dev " + InsideInterface,
	} {
		output, err := exec.Command("/sbin/ip", strings.Fields(command)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(output)))
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

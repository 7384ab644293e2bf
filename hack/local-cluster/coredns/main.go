// Command coredns is CoreDNS with only the plugins a one-node cluster needs:
// it answers for cluster.local and forwards nothing.
package main

import (
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
)

// The order of a query's way through the plugins; CoreDNS takes it from
// here because the list it ships names plugins that are not in this binary.
func init() {
	dnsserver.Directives = []string{
		"reload", "health", "ready", "errors", "cache", "kubernetes",
	}
}

func main() { coremain.Run() }

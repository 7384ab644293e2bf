// Package hostlink is the host's side of a cluster's network: free addresses,
// one end of a veth pair, and the routes through it. It sets no firewall rule
// and forwards nothing, so no packet of a cluster leaves the machine.
package hostlink

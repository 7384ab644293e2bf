package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// longestProfile bounds how long one CPU profile or trace may run.
const longestProfile = 2 * time.Minute

// loopbackAddress refuses an address that other machines or pods reach: a profile tells what the router does and for whom.
func loopbackAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--pprof-listen %s: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--pprof-listen %s: only a loopback address is allowed, such as 127.0.0.1:6060; reach it by kubectl port-forward", address)
	}
	return nil
}

// serveProfiles answers /debug/pprof/ until ctx ends. It is a server of its own, because the admin port is open to the pod's network.
func serveProfiles(ctx context.Context, l net.Listener) error {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /debug/pprof/", pprof.Index)
	routes.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: http.MaxBytesHandler(routes, 0), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: longestProfile, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // a profile under way is of no use to anybody any more
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("profiles on %s: %w", l.Addr(), err)
	}
	return nil
}

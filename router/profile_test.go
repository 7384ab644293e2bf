package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

func TestProfilesAreServedOnTheLoopbackOnly(t *testing.T) {
	for address, good := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:6060": true, ":6060": false, "0.0.0.0:6060": false, "10.0.0.1:6060": false, "localhost:6060": false, "6060": false, "": false,
	} {
		if err := loopbackAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := parseOptions([]string{"--config", "x", "--pprof-listen", ":6060"}); err == nil {
		t.Error("the option takes any address")
	}
	if o, err := parseOptions([]string{"--config", "x"}); err != nil || o.pprofListen != "" {
		t.Errorf("profiles are not off: %q, %v", o.pprofListen, err)
	}
}

func TestProfiles(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveProfiles(ctx, listener) }()
	for path, magic := range map[string]string{"": "<html>", "profile?seconds=1": "\x1f\x8b", "heap": "\x1f\x8b"} {
		response, err := http.Get("http://" + listener.Addr().String() + "/debug/pprof/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !bytes.HasPrefix(body, []byte(magic)) {
			t.Errorf("%q: %d, %v, %.20q", path, response.StatusCode, err, body)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

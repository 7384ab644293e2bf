package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"
)

// A probe says whether something answers yet: nil when it does.
type probe func() error

func httpProbe(url string) probe {
	client := &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			// It asks 127.0.0.1 inside the node's own network, and no secret is sent.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		},
	}
	return func() error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

func socketProbe(path string) probe {
	return func() error {
		connection, err := net.DialTimeout("unix", path, time.Second)
		if err != nil {
			return err
		}
		return connection.Close()
	}
}

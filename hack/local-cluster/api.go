package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// api asks the API server the three questions that "up" and "status" have.
type api struct {
	client *http.Client
	server string
}

func newAPI(config node.Config) (api, error) {
	pair, err := tls.LoadX509KeyPair(config.Path("pki", "admin.crt"), config.Path("pki", "admin.key"))
	if err != nil {
		return api{}, err
	}
	authority, err := os.ReadFile(config.Path("pki", "ca.crt"))
	if err != nil {
		return api{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return api{
		client: &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				// A proxy of the user's is for the world outside.
				Proxy:           nil,
				TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12},
			},
		},
		server: config.Server(),
	}, nil
}

func (a api) get(path string, into any) error {
	response, err := a.client.Get(a.server + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// conditions is the part of a status that tells how an object is.
type conditions struct {
	Status struct {
		Conditions []struct{ Type, Status, Message string }
	}
}

func (c conditions) want(kind string) error {
	for _, each := range c.Status.Conditions {
		if each.Type == kind {
			if each.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s=%s: %s", kind, each.Status, each.Message)
		}
	}
	return errors.New("no condition " + kind + " yet")
}

func (a api) ready() error { return a.get("/readyz", nil) }

func (a api) nodeReady(config node.Config) error {
	var found conditions
	if err := a.get("/api/v1/nodes/"+config.NodeName(), &found); err != nil {
		return err
	}
	return found.want("Ready")
}

func (a api) dnsReady() error {
	var found conditions
	if err := a.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns", &found); err != nil {
		return err
	}
	return found.want("Available")
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

const (
	// size of the payload in bytes.
	size = 1 << 10
	// callers are the most calls that are under way at a time, kills included.
	callers = 1024
)

// caller is a client of a system.
type caller interface {
	// echo makes one call and checks the answer.
	echo(ctx context.Context) error
	// pid asks which process serves.
	pid(ctx context.Context) (int, error)
	close()
}

// subject is a system and how it is called.
type subject struct {
	name  string
	start func(ctx context.Context) (*system.System, error)
	dial  func(address string) (caller, error)
}

func subjects(ours, theirs system.Tree) []subject {
	script := func(name, file string) func(context.Context) (*system.System, error) {
		return func(ctx context.Context) (*system.System, error) { return system.Script(ctx, theirs, name, file) }
	}
	return []subject{
		{"snakepit, generic API (gRPC)", func(ctx context.Context) (*system.System, error) {
			return system.Routed{Adapter: "bench_tools:Tools", Workers: 1}.Start(ctx, ours, "snakepit")
		}, dialPool},
		{"Ray Serve, HAProxy mode (HTTP)", script("ray", "peer_ray.py"), func(address string) (caller, error) {
			return newWeb(address, strings.Repeat("x", size), http.MethodGet, "", func(s string) string { return s }), nil
		}},
		{"LitServe, restart_workers (HTTP, JSON)", script("litserve", "peer_litserve.py"), func(address string) (caller, error) {
			return newWeb(address+"/predict", `{"payload":"`+strings.Repeat("x", size)+`"}`, http.MethodPost, `{"payload":"pid"}`, func(s string) string {
				return strings.TrimSuffix(strings.TrimPrefix(s, `{"payload":"`), `"}`)
			}), nil
		}},
	}
}

// web calls by HTTP.
type web struct {
	client          http.Client
	url, body       string
	method, pidBody string
	pidOf           func(string) string
}

func newWeb(address, body, method, pidBody string, pidOf func(string) string) *web {
	return &web{http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}, "http://" + address, body, method, pidBody, pidOf}
}

func (w *web) do(ctx context.Context, method, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, w.url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := w.client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // only read from
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200q", response.Status, answer)
	}
	return string(answer), err
}

func (w *web) echo(ctx context.Context) error {
	answer, err := w.do(ctx, http.MethodPost, w.body)
	if err == nil && len(answer) < size {
		return fmt.Errorf("the answer has %d bytes", len(answer))
	}
	return err
}

func (w *web) pid(ctx context.Context) (int, error) {
	answer, err := w.do(ctx, w.method, w.pidBody)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(w.pidOf(answer))
}

func (w *web) close() { w.client.CloseIdleConnections() }

// pool calls our generic API as a user's Go program would.
type pool struct {
	conn    *grpc.ClientConn
	client  rpcv1.PoolClient
	request *rpcv1.ExecuteRequest
}

func dialPool(address string) (caller, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	payload := &rpcv1.Value{Kind: &rpcv1.Value_Data{Data: bytes.Repeat([]byte{'x'}, size)}}
	return &pool{conn, rpcv1.NewPoolClient(conn), &rpcv1.ExecuteRequest{Tool: "echo", Arguments: map[string]*rpcv1.Value{"payload": payload}}}, nil
}

func (p *pool) echo(ctx context.Context) error {
	answer, err := p.client.Execute(ctx, p.request)
	if err == nil && len(answer.GetResult().GetData()) != size {
		return errors.New("the answer is not the payload")
	}
	return err
}

func (p *pool) pid(ctx context.Context) (int, error) {
	answer, err := p.client.Execute(ctx, &rpcv1.ExecuteRequest{Tool: "pid"})
	return int(answer.GetResult().GetInteger()), err
}

func (p *pool) close() { _ = p.conn.Close() } // nothing is under way any more

// firstAnswer waits until the system serves.
func firstAnswer(ctx context.Context, c caller) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := c.echo(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("no good answer within 2 minutes of the start: %w", err)
		}
	}
}

// Command datapath measures the router alone: it starts a router binary, plays its supervisor and workers in Go (they answer each call with its own
// payload, at once), calls them in a closed loop, and prints calls per second, latency, and the router's CPU time a call.
//
// It uses unix sockets and loopback only, for a bounded time, and ends the router that it started.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"google.golang.org/protobuf/proto"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

type options struct {
	router      string
	method      string
	outstanding string
	workers     int
	bytes       int
	seconds     int
	connections int
	session     bool
	floor       bool
	echo        string
	address     string
	pid         int
}

func main() {
	var o options
	flag.StringVar(&o.router, "router", "bin/router", "router `binary` to measure")
	flag.StringVar(&o.method, "method", "tool", "tool: Execute of a tool; else the path of a gRPC method, such as /bench.Echo/Call")
	flag.StringVar(&o.outstanding, "outstanding", "1,8,64", "numbers of calls under way at a time")
	flag.IntVar(&o.workers, "workers", 1, "workers (1 to 64)")
	flag.IntVar(&o.bytes, "bytes", 1024, "size of request and answer")
	flag.IntVar(&o.seconds, "seconds", 3, "length of each run (1 to 60)")
	flag.IntVar(&o.connections, "connections", 1, "connections of the caller")
	flag.BoolVar(&o.session, "session", false, "call in sessions, one for each outstanding call up to 16 a worker")
	flag.BoolVar(&o.floor, "floor", false, "measure a grpc-go server that answers by itself instead: what a router cannot be faster than")
	flag.StringVar(&o.echo, "echo", "", "be that server, on this `address`")
	flag.StringVar(&o.address, "address", "", "measure the router that listens on this `address` already, with workers of its own")
	flag.IntVar(&o.pid, "pid", 0, "its process id, for the CPU time a call")
	flag.Parse()
	what := run
	if o.echo != "" {
		what = echo
	}
	if err := what(o); err != nil {
		fmt.Fprintln(os.Stderr, "datapath:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.seconds < 1 || o.seconds > 60 || o.workers < 1 || o.workers > 64 || o.bytes < 0 || o.bytes > 200<<10 {
		return fmt.Errorf("--seconds 1 to 60, --workers 1 to 64, --bytes 0 to 204800")
	}
	if o.floor {
		return runFloor(o)
	}
	if o.address != "" {
		return measureAll(o, o.address, o.pid)
	}
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	spec := fmt.Sprintf("poolName: bench\nrevision: r1\nimage: none\nadapter: none:None\nworkers: %d\nsessions: {creation: Implicit}\n", o.workers)
	if err := os.WriteFile(filepath.Join(dir, "pool.yaml"), []byte(spec), 0o600); err != nil {
		return err
	}
	callers, admin := freeAddress(), freeAddress()
	socket := filepath.Join(dir, "b.sock")
	router := exec.Command(o.router, "--config", filepath.Join(dir, "pool.yaml"), "--listen", callers, "--admin-listen", admin,
		"--bridge-socket", socket, "--state-dir", dir)
	log, err := os.Create(filepath.Join(dir, "router.log"))
	if err != nil {
		return err
	}
	router.Stdout, router.Stderr = log, log
	if err := router.Start(); err != nil {
		return err
	}
	defer func() { _ = router.Process.Signal(syscall.SIGTERM); _ = router.Wait() }()
	house := &container{socket: socket, workers: o.workers}
	if err := house.start(); err != nil {
		return err
	}
	defer house.stop()
	err = measureAll(o, callers, router.Process.Pid)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		fmt.Fprintf(os.Stderr, "%s\n", text)
	}
	return err
}

// runFloor measures a server of grpc-go alone, with the router's options.
func runFloor(o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	address := freeAddress()
	server := exec.Command(self, "-echo", address)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	if o.method == "tool" {
		o.method = "/bench.Echo/Call"
	}
	return measureAll(o, address, server.Process.Pid)
}

// echo serves any method with its own request.
func echo(o options) error {
	l, err := net.Listen("tcp", o.echo)
	if err != nil {
		return err
	}
	return grpc.NewServer(grpc.ForceServerCodecV2(through{}), grpc.NumStreamWorkers(64), grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(1<<20),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			var m mem.BufferSlice
			if err := stream.RecvMsg(&m); err != nil {
				return err
			}
			return stream.SendMsg(m)
		})).Serve(l)
}

// through passes buffers on.
type through struct{ raw }

func (through) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }
func (through) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*(v.(*mem.BufferSlice)) = data
	return nil
}

func freeAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// raw passes bytes through.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(data mem.BufferSlice, v any) error { *(v.(*int)) = data.Len(); return nil }

func measureAll(o options, callers string, pid int) error {
	var conns []*grpc.ClientConn
	for range o.connections {
		conn, err := grpc.NewClient("passthrough:///"+callers, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
	}
	path, request := o.method, make([]byte, o.bytes)
	if path == "tool" {
		path = "/snakepit.v1alpha1.Pool/Execute"
		var err error
		request, err = proto.Marshal(&rpcv1alpha1.ExecuteRequest{Tool: "echo", Arguments: map[string]*rpcv1alpha1.Value{
			"data": {Kind: &rpcv1alpha1.Value_Data{Data: make([]byte, o.bytes)}}}})
		if err != nil {
			return err
		}
	}
	for text := range strings.SplitSeq(o.outstanding, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 10000 {
			return fmt.Errorf("--outstanding: %q must be a number between 1 and 10000", text)
		}
		waitFor(callers)
		load := &load{conns: conns, path: path, request: request, n: n, session: o.session}
		if _, err := load.run(time.Second / 2); err != nil {
			return err
		}
		before := cpuOf(pid)
		took, err := load.run(time.Duration(o.seconds) * time.Second)
		used := cpuOf(pid) - before
		if err != nil {
			return err
		}
		slices.Sort(took)
		fmt.Printf("outstanding %3d: %7.0f calls/s, p50 %6.0f µs, p99 %6.0f µs, router %5.1f µs CPU a call\n", n, float64(len(took))/float64(o.seconds),
			micros(took[len(took)/2]), micros(took[len(took)*99/100]), micros(used)/float64(len(took)))
	}
	return nil
}

// waitFor a server that listens, for some seconds.
func waitFor(address string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return
		}
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// cpuOf reads user and system time of a process, in ticks of 10 ms.
func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

type load struct {
	conns   []*grpc.ClientConn
	path    string
	request []byte
	n       int
	session bool
}

// run keeps n calls under way until the time is over and returns how long each took.
func (l *load) run(length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), length+30*time.Second)
	defer cancel()
	var (
		mu       sync.Mutex
		all      []time.Duration
		firstErr error
		group    sync.WaitGroup
	)
	end := time.Now().Add(length)
	for i := range l.n {
		group.Go(func() {
			own := make([]time.Duration, 0, 1<<16)
			ctx, conn := ctx, l.conns[i%len(l.conns)]
			if l.session {
				ctx = metadata.AppendToOutgoingContext(ctx, "snakepit-session", fmt.Sprint("s", i%16))
			}
			var err error
			for began := time.Now(); began.Before(end) && err == nil; {
				var got int
				err = conn.Invoke(ctx, l.path, l.request, &got)
				now := time.Now()
				own = append(own, now.Sub(began))
				began = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			if firstErr == nil {
				firstErr = err
			}
		})
	}
	group.Wait()
	return all, firstErr
}

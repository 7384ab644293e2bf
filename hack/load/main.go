// Command load measures routed calls of one tool against a pool, in a closed loop: so many calls outstanding at a time, for so long.
//
// It prints calls per second and the median and 99th percentile latency for each number of outstanding calls.
// It sends traffic only to the address it is given, for a bounded time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

func main() {
	address := flag.String("address", "localhost:50051", "router to call")
	tool := flag.String("tool", "add", "tool to call, with the arguments a=1, b=2")
	outstanding := flag.String("outstanding", "1,8,64", "numbers of calls under way at a time")
	seconds := flag.Int("seconds", 3, "length of each run (1 to 60)")
	flag.Parse()
	if err := run(*address, *tool, *outstanding, *seconds); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(address, tool, outstanding string, seconds int) error {
	if seconds < 1 || seconds > 60 {
		return errors.New("--seconds must be between 1 and 60")
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	arguments, err := structpb.NewStruct(map[string]any{"a": 1, "b": 2})
	if err != nil {
		return err
	}
	pool, request := rpcv1alpha1.NewPoolClient(conn), &rpcv1alpha1.ExecuteRequest{Tool: tool, Json: arguments}
	for text := range strings.SplitSeq(outstanding, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return fmt.Errorf("--outstanding: %q must be a number between 1 and 1000", text)
		}
		if _, err := measure(pool, request, n, time.Second/2); err != nil { // warm up
			return err
		}
		took, err := measure(pool, request, n, time.Duration(seconds)*time.Second)
		if err != nil {
			return err
		}
		slices.Sort(took)
		fmt.Printf("outstanding %3d: %7.0f calls/s, p50 %7.0f µs, p99 %7.0f µs\n", n, float64(len(took))/float64(seconds),
			micros(took[len(took)/2]), micros(took[len(took)*99/100]))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// measure keeps n calls under way until the time is over and returns how long each took.
func measure(pool rpcv1alpha1.PoolClient, request *rpcv1alpha1.ExecuteRequest, n int, length time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), length+30*time.Second)
	defer cancel()
	var (
		mu       sync.Mutex
		all      []time.Duration
		firstErr error
		group    sync.WaitGroup
	)
	end := time.Now().Add(length)
	for range n {
		group.Go(func() {
			var own []time.Duration
			var err error
			for began := time.Now(); began.Before(end) && err == nil; {
				_, err = pool.Execute(ctx, request)
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

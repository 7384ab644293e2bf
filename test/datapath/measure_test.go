package datapath

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// sample is one call of a load: how long its caller waited, and what it was told.
type sample struct {
	answer
	took time.Duration
}

// openLoop starts calls at a rate, whether earlier ones have ended or not, and waits for all of them. They are told apart by their number.
func openLoop(rate float64, length time.Duration, call func(n int) answer) []sample {
	var mu sync.Mutex
	var all []sample
	var group sync.WaitGroup
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; time.Since(began) < length; <-tick.C {
		for due := int(time.Since(began).Seconds() * rate); n < due; n++ {
			number := n
			group.Go(func() {
				at := time.Now()
				s := sample{answer: call(number)}
				s.took = time.Since(at)
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			})
		}
	}
	group.Wait()
	return all
}

// closedLoop lets so many callers call one after the other.
func closedLoop(callers int, length time.Duration, call func() answer) []sample {
	var mu sync.Mutex
	var all []sample
	var group sync.WaitGroup
	end := time.Now().Add(length)
	for range callers {
		group.Go(func() {
			for time.Now().Before(end) {
				at := time.Now()
				s := sample{answer: call()}
				s.took = time.Since(at)
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return all
}

func good(all []sample) (n int) {
	for _, s := range all {
		if s.err == nil {
			n++
		}
	}
	return n
}

// share of the part that went well; 0 of nothing.
func share(all []sample) float64 { return float64(good(all)) / math.Max(float64(len(all)), 1) }

// within calls with a deadline of its own.
func (s *stage) within(limit time.Duration, tool string, args arguments, pairs ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return s.callIn(ctx, tool, args, pairs...)
}

// retry is the wait hint of a refusal, in both of its forms; 0 and empty where it has none.
func (a answer) retry() (hint time.Duration, pushback string) {
	for _, d := range status.Convert(a.err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			hint = info.GetRetryDelay().AsDuration()
		}
	}
	return hint, strings.Join(a.trailer.Get("grpc-retry-pushback-ms"), ",")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile of samples by rank; 0 of none.
func quantile[T ~int64 | ~float64](all []T, q float64) T {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(float64(len(sorted))*q), len(sorted)-1)]
}

func median[T ~int64 | ~float64](all []T) T { return quantile(all, 0.5) }

func durations(all []sample) []time.Duration {
	took := make([]time.Duration, len(all))
	for i, s := range all {
		took[i] = s.took
	}
	return took
}

const mebibyte = 1 << 20

// memory reads a line of /proc/PID/status, such as VmRSS or VmHWM, in bytes.
func memory(t testing.TB, pid int, field string) float64 {
	t.Helper()
	return procField(t, filepath.Join("/proc", strconv.Itoa(pid), "status"), field)
}

// procField reads a line of so many kB.
func procField(t testing.TB, file, field string) float64 {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes * 1024
		}
	}
	t.Fatalf("%s has no %s", file, field)
	return 0
}

// forgetPeak makes VmHWM begin anew at what is resident now, and returns that.
func (s *stage) forgetPeak() float64 {
	s.t.Helper()
	pid := s.router.Process.Pid
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil {
		s.t.Fatal(err)
	}
	return memory(s.t, pid, "VmRSS")
}

// peak is the most that was resident since forgetPeak.
func (s *stage) peak() float64 { return memory(s.t, s.router.Process.Pid, "VmHWM") }

// value is a metric as a number; NaN where it is not to be had.
func (s *stage) value(name string) float64 {
	x, err := strconv.ParseFloat(s.metric(name), 64)
	if err != nil {
		return math.NaN()
	}
	return x
}

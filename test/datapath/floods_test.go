package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// attack is one kind of caller that means harm: it runs until the context ends, and says how much it did.
type attack struct {
	name    string
	run     func(context.Context, *stage) (done int)
	minimum int // below it nothing was shown
}

func flooded(burst func(*raw) (int, error)) func(context.Context, *stage) int {
	return func(ctx context.Context, s *stage) int {
		frames, _ := s.flood(ctx, burst)
		return frames
	}
}

var attacks = []attack{
	{"rapid reset", flooded(rapidReset), 500},
	{"CONTINUATION flood", flooded(continuation), 200},
	{"ping flood", flooded(pings), 200},
	{"SETTINGS flood", flooded(settings), 500},
	{"slow client", slowClients, 100},
	{"slow reader", slowReaders, 100},
}

// slice is how long one look at the good client takes, with a flood or without one.
const slice = 800 * time.Millisecond

// TestS8Floods floods the router in six ways, each in turns with quiet, beside a client that does what it should.
func TestS8Floods(t *testing.T) {
	const rounds = 3
	s := newStage(t, "workers: 2\n")
	s.expectReady(2)
	s.politely() // warms up
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { s.attacked(t, a, rounds) })
	}
	s.expectIdle()
}

// politely is what the good client sees: its p99 at 100 calls/s, and how many failed.
func (s *stage) politely() (p99 time.Duration, failed int) {
	all := openLoop(100, slice, func(int) answer { return s.within(5*time.Second, "pid", nil) })
	return quantile(durations(all), 0.99), len(all) - good(all)
}

func (s *stage) attacked(t *testing.T, a attack, rounds int) {
	var quiet, loud []time.Duration
	growth, failed, done := 0.0, 0, 0
	for range rounds {
		p99, bad := s.politely()
		quiet, failed = append(quiet, p99), failed+bad
		before := s.forgetPeak()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan int)
		go func() { ended <- a.run(ctx, s) }()
		p99, bad = s.politely()
		cancel()
		done += <-ended
		loud, failed = append(loud, p99), failed+bad
		growth = math.Max(growth, s.peak()-before)
	}
	void := ""
	if done < a.minimum {
		void = fmt.Sprintf("%d frames or streams of at least %d", done, a.minimum)
	}
	// A machine that is busy with the flood's own work lets the good client wait a little: 15 ms count as none.
	base := math.Max(milliseconds(median(quiet)), 15)
	report(t, "S8", void, rounds, told(a.name+": frames or streams", float64(done), "frames"),
		told(a.name+": good client's p99 without it", milliseconds(median(quiet)), "ms"), told(a.name+": good client's p99 with it", milliseconds(median(loud)), "ms"),
		byClock(atMost(a.name+": good client's p99, of that without it", milliseconds(median(loud))/base, 2, "ratio")),
		atMost(a.name+": failed calls of the good client", float64(failed), 0, "calls"),
		atMost(a.name+": growth of the router's RSS", growth/mebibyte, 32, "MiB"))
}

// slowClients open 40 connections: half of them stop in the middle of the preface, half have ten calls each that send a byte now and then.
func slowClients(ctx context.Context, s *stage) (streams int) {
	var callers []*raw
	var halves []net.Conn
	defer func() {
		for _, r := range callers {
			_ = r.Close()
		}
		for _, c := range halves {
			_ = c.Close()
		}
	}()
	for range 20 {
		if c, err := net.Dial("tcp", s.listen); err == nil {
			_, _ = c.Write([]byte(http2.ClientPreface[:10]))
			halves = append(halves, c)
		}
		r, err := s.dialRaw()
		if err != nil {
			return streams
		}
		callers = append(callers, r)
		for range 10 {
			id, err := r.open(fields(executePath))
			if err == nil { // announces 20 KiB, of which a byte comes
				err = r.framer.WriteData(id, false, append(binary.BigEndian.AppendUint32([]byte{0}, 20<<10), 1))
			}
			if err != nil {
				return streams
			}
			streams++
		}
	}
	for ctx.Err() == nil {
		pause(ctx, 100*time.Millisecond)
		for _, r := range callers {
			for id := uint32(1); id < r.stream; id += 2 {
				_ = r.framer.WriteData(id, false, []byte{1}) // a router that has hung up is a good answer, too
			}
		}
	}
	return streams
}

// slowReaders ask for answers of 128 KiB on 10 connections and read none of them: more than the window of a stream.
func slowReaders(ctx context.Context, s *stage) (streams int) {
	request := message(s.t, "big", arguments{"size": integer(128 << 10)})
	var callers []*raw
	defer func() {
		for _, r := range callers {
			_ = r.Close()
		}
	}()
	for range 10 {
		r, err := s.dialRaw()
		if err != nil {
			return streams
		}
		callers = append(callers, r)
	}
	for _, r := range callers {
		for range 10 {
			id, err := r.open(fields(executePath))
			if err == nil {
				err = r.framer.WriteData(id, true, request)
			}
			if err != nil {
				return streams
			}
			streams++
		}
	}
	<-ctx.Done()
	return streams
}

// TestS9ReconnectStorm lets 2,000 callers connect at once, and all of them again: the cap holds, who was there is served, and nothing is left.
func TestS9ReconnectStorm(t *testing.T) {
	const callers, most = 2000, 1024
	raiseFiles(t, callers+500)
	s := newStage(t, "workers: 2\n")
	s.expectReady(2)
	if a := s.call("pid", nil); a.err != nil {
		t.Fatal(a.err)
	}
	base := s.value("process_open_fds")
	failed, peak, alive := 0, 0.0, 0
	for range 2 {
		var conns []net.Conn
		conns, alive = s.storm(callers)
		peak = math.Max(peak, s.value("process_open_fds"))
		for range 20 {
			if a := s.call("pid", nil); a.err != nil {
				failed++
			}
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}
	left := math.NaN()
	fixture.Eventually(t, 20*time.Second, "the files of before", func() error {
		if left = s.value("process_open_fds") - base; left > 2 || math.IsNaN(left) {
			return fmt.Errorf("%g more than before", left)
		}
		return nil
	})
	void := ""
	if alive < most/2 {
		void = fmt.Sprintf("only %d connections were served", alive)
	}
	report(t, "S9", void, 2, told("connects of one storm", callers, "connections"), told("served at a time", float64(alive), "connections"),
		atMost("files of the router at the peak, above its base", peak-base, most+64, "files"), atMost("failed calls of a caller from before", float64(failed), 0, "calls"),
		atMost("files left", math.Max(left, 0), 2, "files"))
	s.expectIdle()
}

// storm connects so many callers at once, and counts those that the router greets; the others it closed.
func (s *stage) storm(callers int) (conns []net.Conn, alive int) {
	var mu sync.Mutex
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			r, err := s.dialRaw()
			if err != nil {
				return
			}
			_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = r.framer.ReadFrame() // its settings, or the end
			mu.Lock()
			defer mu.Unlock()
			conns = append(conns, r)
			if err == nil {
				alive++
			}
		})
	}
	group.Wait()
	return conns, alive
}

// raiseFiles lets this process, and those that it starts, open more files; the test is left out where that is not allowed.
func raiseFiles(t *testing.T, files uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < files {
		t.Skipf("left out: %d open files are allowed, %d are needed; to run it: ulimit -n %d", limit.Max, files, files)
	}
	if limit.Cur < files {
		limit.Cur = files
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(os.NewSyscallError("setrlimit", err))
		}
	}
}

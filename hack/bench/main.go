// Command bench compares calls through the router with calls of a plain grpcio server, and measures what a call costs. It starts what it measures,
// drives it with one gRPC client over the loopback, each system in turn, and ends by itself. docs/benchmarks.md tells the method and the result.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
)

// options of the command line.
type options struct {
	quick    bool
	repeats  int
	budget   time.Duration
	baseline string
	only     string
	python   string
	out      string
	docs     string
	render   string
	profile  bool
	adapter  string
	size     int
	floor    bool
}

func parse(args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&o.quick, "quick", os.Getenv("BENCH_QUICK") == "1", "2 repeats of short loops, to see that all works; its figures are void (BENCH_QUICK=1)")
	f.IntVar(&o.repeats, "repeats", 5, "how often each system is measured in each cell, 1 to 50")
	f.DurationVar(&o.budget, "budget", 11*time.Minute, "time for the whole run, 1m to 2h; the loops' length follows from it")
	f.StringVar(&o.baseline, "baseline", "", "earlier `commit` of ours to compare with, by the generic API")
	f.StringVar(&o.only, "only", "", "measure only the cells whose id begins with one of these `prefixes`, separated by commas")
	f.StringVar(&o.python, "python", ".venv/bin/python", "interpreter for all Python servers (make venv)")
	f.StringVar(&o.out, "out", "out", "`folder` for figures.jsonl and bench/result.json")
	f.StringVar(&o.docs, "docs", "", "`page` whose part between the bench markers is replaced; plots go to img/ beside it")
	f.StringVar(&o.render, "render", "", "measure nothing: write the page from this result.json")
	f.BoolVar(&o.profile, "profile", false, "measure nothing: say where the router's CPU time goes")
	f.StringVar(&o.adapter, "adapter", serviceAdapter, "what --profile runs: "+serviceAdapter+" or "+toolsAdapter+" (the generic API)")
	f.IntVar(&o.size, "size", kib, "payload of --profile in bytes, 0 to 3 MiB")
	f.BoolVar(&o.floor, "serve-floor", false, "serve the grpc-go echo that shows what client and transport can do (the program starts itself so)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.repeats < 1 || o.repeats > 50:
		return o, errors.New("--repeats must be between 1 and 50")
	case o.budget < time.Minute || o.budget > 2*time.Hour:
		return o, errors.New("--budget must be between 1m and 2h")
	case o.adapter != serviceAdapter && o.adapter != toolsAdapter:
		return o, fmt.Errorf("--adapter must be %s or %s", serviceAdapter, toolsAdapter)
	case o.size < 0 || o.size > 3*mib:
		return o, errors.New("--size must be between 0 and 3 MiB")
	case o.render != "" && o.docs == "":
		return o, errors.New("--render needs --docs")
	}
	if o.quick {
		o.repeats, o.budget = 2, 85*time.Second
	}
	python, err := filepath.Abs(o.python)
	o.python = python
	return o, err
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	switch {
	case o.floor:
		return load.ServeFloor(ctx, func(a net.Addr) { fmt.Println("listening", a.(*net.TCPAddr).Port) })
	case o.render != "":
		result, err := report.Load(o.render)
		if err != nil {
			return err
		}
		return report.WritePage(o.docs, result)
	case o.profile:
		return profile(ctx, o)
	}
	began := time.Now()
	result, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if err := result.Save(filepath.Join(o.out, "bench", "result.json")); err != nil {
		return err
	}
	fmt.Print(report.Plain(result))
	progress("%d s in all", int(time.Since(began).Seconds()))
	if len(result.Missing) > 0 {
		return fmt.Errorf("not everything could be measured, so no figure is kept:\n  %s", strings.Join(result.Missing, "\n  "))
	}
	if o.quick || o.only != "" {
		progress("only a part was measured: figures.jsonl and the page stay as they are")
		return nil
	}
	if err := report.Append(filepath.Join(o.out, "figures.jsonl"), result.Figures()); err != nil {
		return err
	}
	if o.docs == "" {
		return nil
	}
	return report.WritePage(o.docs, result)
}

// progress tells on standard error what goes on; standard output is for results.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// Command figures prints the figures that fault suites and benchmarks left, one JSON object a line, as a table. It ends with 1 when a figure
// is beyond its bound or void: a test whose load stayed under its minimum has shown nothing.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// figure is one line of the file. A bound is <=, <, >=, >, or == and a number; without one the figure is only told.
type figure struct {
	ID      string   `json:"id"`
	Figure  string   `json:"figure"`
	Value   *float64 `json:"value"`
	Low     *float64 `json:"low"`
	High    *float64 `json:"high"`
	Unit    string   `json:"unit"`
	Bound   string   `json:"bound"`
	OK      bool     `json:"ok"`
	Void    bool     `json:"void"`
	Runs    int      `json:"runs"`
	Seed    uint64   `json:"seed"`
	Commit  string   `json:"commit"`
	Command string   `json:"command"`
}

// errBad says that the figures were read and some of them are not as they should be.
var errBad = errors.New("figures beyond their bounds or void")

func main() {
	path := flag.String("file", "out/figures.jsonl", "File of figures, one JSON object a line.")
	page := flag.String("reliability", "", "Write the page about faults to this file instead of the table.")
	flag.Parse()
	if err := run(*path, *page, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

func run(path, page string, out io.Writer) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s; make faults and make bench write it", path)
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	figures, err := read(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if page != "" {
		return writeReliability(page, figures)
	}
	return show(figures, out)
}

// read keeps the last line of each figure: a file grows with every run.
func read(in io.Reader) ([]figure, error) {
	var figures []figure
	at := map[string]int{}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var f figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("line %d is no figure: %w; remove the line and run its command again", n, err)
		}
		if f.ID == "" || f.Figure == "" || f.Value == nil {
			return nil, fmt.Errorf("line %d lacks id, figure or value; remove the line and run its command again", n)
		}
		if _, err := holds(f.Bound, *f.Value); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if i, ok := at[f.ID+" "+f.Figure]; ok {
			figures[i] = f
			continue
		}
		at[f.ID+" "+f.Figure] = len(figures)
		figures = append(figures, f)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(figures) == 0 {
		return nil, errors.New("there is no figure in it; make faults and make bench write some")
	}
	return figures, nil
}

// holds says whether a value keeps to its bound.
func holds(bound string, value float64) (bool, error) {
	if bound == "" {
		return true, nil
	}
	// The longer signs come first: each begins with a shorter one.
	for _, sign := range []string{"<=", ">=", "==", "<", ">"} {
		text, ok := strings.CutPrefix(bound, sign)
		if !ok {
			continue
		}
		limit, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || math.IsNaN(limit) {
			break
		}
		switch sign {
		case "<=":
			return value <= limit, nil
		case ">=":
			return value >= limit, nil
		case "==":
			return value == limit, nil
		case "<":
			return value < limit, nil
		default:
			return value > limit, nil
		}
	}
	return false, fmt.Errorf("bound %q is not <=, <, >=, > or == and a number", bound)
}

// verdict says what a figure is worth; only "ok" and "told" are good.
func verdict(f figure) string {
	within, err := holds(f.Bound, *f.Value)
	switch {
	case f.Void || f.Runs <= 0:
		return "void"
	case err != nil || !within:
		return "BEYOND"
	case !f.OK:
		return "FAILED"
	case f.Bound == "":
		return "told"
	default:
		return "ok"
	}
}

// show prints the table.
func show(figures []figure, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tFIGURE\tVALUE\tBOUND\tVERDICT\tRUNS\tSEED\tCOMMIT\tCOMMAND")
	bad := 0
	for _, f := range figures {
		v := verdict(f)
		if v != "ok" && v != "told" {
			bad++
		}
		value := strings.TrimSpace(number(*f.Value) + " " + f.Unit)
		if f.Low != nil && f.High != nil {
			value += fmt.Sprintf(" (%s to %s)", number(*f.Low), number(*f.High))
		}
		seed := "-"
		if f.Seed != 0 {
			seed = strconv.FormatUint(f.Seed, 10)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", f.ID, f.Figure, value, f.Bound, v, f.Runs, seed, f.Commit, f.Command)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d %w", bad, len(figures), errBad)
	}
	return nil
}

// number has at most three digits after the point.
func number(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 3, 64), "0"), ".")
}

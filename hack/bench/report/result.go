package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Measure is one system under one kind of load, once.
type Measure struct {
	System string `json:"system"`
	Calls  int    `json:"calls"`
	// PerSecond counts calls that ended well.
	PerSecond float64 `json:"per_second"`
	// P50, P99, P999 are latencies in µs.
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	// Late is, of open loops, how late in µs the median call began.
	Late float64 `json:"late_us,omitempty"`
	// ServerCPU is Router + Workers; all in µs a call.
	ServerCPU  float64 `json:"server_cpu_us"`
	RouterCPU  float64 `json:"router_cpu_us"`
	WorkersCPU float64 `json:"workers_cpu_us"`
	ClientCPU  float64 `json:"client_cpu_us"`
	// RSS and PSS of all processes of the system in MiB, at the end.
	RSS float64 `json:"rss_mib"`
	PSS float64 `json:"pss_mib"`
	// Foreign is the share (0 to 1) of the machine's cores that neither the client nor the system used, but somebody did.
	Foreign float64 `json:"foreign"`
	// Idle is the share of the machine's cores that nobody used.
	Idle float64 `json:"idle"`
}

// Cell is one kind of load, measured several times with several systems in turn.
type Cell struct {
	// ID names the cell for figures: unary-8, unary-8-2w, open, session-8 …
	ID string `json:"id"`
	// Title says what it is.
	Title string `json:"title"`
	// Workers is the number of Python processes that serve, Outstanding of calls under way, Rate the calls a second of an open loop.
	Workers     int     `json:"workers"`
	Outstanding int     `json:"outstanding"`
	Rate        float64 `json:"rate,omitempty"`
	// Repeats holds, for each repeat, one measure a system, in the order of Systems.
	Systems []string    `json:"systems"`
	Repeats [][]Measure `json:"repeats"`
}

// Figure is one line of figures.jsonl.
type Figure struct {
	ID      string   `json:"id"`
	Figure  string   `json:"figure"`
	Value   float64  `json:"value"`
	Low     *float64 `json:"low,omitempty"`
	High    *float64 `json:"high,omitempty"`
	Unit    string   `json:"unit"`
	Bound   string   `json:"bound"`
	OK      bool     `json:"ok"`
	Void    bool     `json:"void,omitempty"`
	Runs    int      `json:"runs"`
	Seed    uint64   `json:"seed"`
	Commit  string   `json:"commit"`
	Command string   `json:"command"`
}

// Pair is one thing and what it is.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Result is a whole run.
type Result struct {
	// Commit and Command that made it; Commit ends with "+" when files differed from it.
	Commit  string `json:"commit"`
	Command string `json:"command"`
	Seed    uint64 `json:"seed"`
	// About lists machine, versions and settings in the order in which they are told.
	About []Pair `json:"about"`
	Cells []Cell `json:"cells"`
	// Told are figures that other programs measured: allocations, worker life, tables.
	Told []Figure `json:"told"`
	// Missing says what could not be measured, and why.
	Missing []string `json:"missing,omitempty"`
}

// Cell finds a cell, nil when it was not measured.
func (r *Result) Cell(id string) *Cell {
	for i := range r.Cells {
		if r.Cells[i].ID == id {
			return &r.Cells[i]
		}
	}
	return nil
}

// Save writes the result for later, as JSON.
func (r *Result) Save(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Load reads a result that was saved.
func Load(path string) (*Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s is no result of this program: %w", path, err)
	}
	return r, nil
}

// Append adds figures to a file, one JSON object a line.
func Append(path string, figures []Figure) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(file)
	encoder.SetEscapeHTML(false)
	for _, f := range figures {
		if err := encoder.Encode(f); err != nil {
			_ = file.Close() // the first failure is told
			return err
		}
	}
	return file.Close()
}

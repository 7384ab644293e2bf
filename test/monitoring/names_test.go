package monitoring

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

// ofScrape are labels that the scrape adds, by the configuration in docs/how-to/monitoring.md.
var ofScrape = []string{"job", "instance", "namespace", "pool", "pod", "le"}

// known are the metrics of docs/reference/metrics.md with their labels, the series of histograms among them.
func known(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| ([a-z, ]*) \\|")
	all := map[string][]string{"up": nil}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		names := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' || r == ' ' })
		if m[2] != "histogram" {
			all[m[1]] = names
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			all[m[1]+suffix] = names
		}
	}
	if len(all) < 40 {
		t.Fatalf("only %d metrics on the page", len(all))
	}
	return all
}

// check says what an expression asks for that does not exist.
func check(known map[string][]string, expr string) (metrics int, wrong []string) {
	expr = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*", "$pool", ".*").Replace(expr)
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return 0, []string{err.Error()}
	}
	allowed := slices.Clone(ofScrape)
	var grouped []string
	parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.VectorSelector:
			metrics++
			names, ok := known[n.Name]
			if !ok {
				wrong = append(wrong, "there is no metric "+n.Name)
			}
			allowed = append(allowed, names...)
			for _, m := range n.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(names, m.Name) && !slices.Contains(ofScrape, m.Name) {
					wrong = append(wrong, n.Name+" has no label "+m.Name)
				}
			}
		}
		return nil
	})
	for _, label := range grouped {
		if !slices.Contains(allowed, label) {
			wrong = append(wrong, "no metric in it has the label "+label)
		}
	}
	return metrics, wrong
}

func TestNamesOfRules(t *testing.T) {
	known := known(t)
	for _, rule := range rules(t) {
		if metrics, wrong := check(known, rule.Expr); metrics == 0 || len(wrong) > 0 {
			t.Errorf("%s asks for %d metrics: %q", rule.Alert, metrics, wrong)
		}
	}
}

// panels is the part of the dashboard that asks for metrics.
type panels struct {
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Query string `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

func dashboard(t *testing.T) panels {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p panels
	if err := json.Unmarshal(content, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNamesOfDashboard(t *testing.T) {
	dashboard := dashboard(t)
	known := known(t)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			if metrics, wrong := check(known, target.Expr); metrics == 0 || len(wrong) > 0 {
				t.Errorf("panel %s asks for %d metrics: %q", panel.Title, metrics, wrong)
			}
		}
		if len(panel.Targets) == 0 {
			t.Errorf("panel %s shows nothing", panel.Title)
		}
	}
	of := regexp.MustCompile(`label_values\((.*), [a-z]+\)$`)
	for _, variable := range dashboard.Templating.List {
		if m := of.FindStringSubmatch(variable.Query); m != nil {
			if _, wrong := check(known, m[1]); len(wrong) > 0 {
				t.Errorf("variable %s: %q", variable.Query, wrong)
			}
		}
	}
	if len(dashboard.Panels) == 0 {
		t.Error("the dashboard has no panel")
	}
}

// The check itself finds what does not exist.
func TestCheckFails(t *testing.T) {
	for _, expr := range []string{"snakepit_operator_nothing", `snakepit_operator_pool_ready{colour="red"}`, "sum by (colour) (snakepit_operator_pool_ready)", "rate("} {
		if _, wrong := check(map[string][]string{"snakepit_operator_pool_ready": nil}, expr); len(wrong) == 0 {
			t.Errorf("%s was accepted", expr)
		}
	}
}

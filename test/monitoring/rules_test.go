package monitoring

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"go.yaml.in/yaml/v3"
)

const folder = "../../config/monitoring"

// suite is the part of promtool's format that rules_test.yaml uses.
type suite struct {
	Interval model.Duration `yaml:"evaluation_interval"`
	Files    []string       `yaml:"rule_files"`
	Tests    []struct {
		Name     string         `yaml:"name"`
		Interval model.Duration `yaml:"interval"`
		Series   []struct {
			Series string `yaml:"series"`
			Values string `yaml:"values"`
		} `yaml:"input_series"`
		Alerts []expectation `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

type expectation struct {
	At   model.Duration `yaml:"eval_time"`
	Name string         `yaml:"alertname"`
	Want []struct {
		Labels map[string]string `yaml:"exp_labels"`
	} `yaml:"exp_alerts"`
}

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(filepath.Join(folder, "rules.yaml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestRules(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(folder, "rules_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var s suite
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	byName := map[string]rulefmt.Rule{}
	for _, r := range rules(t) {
		byName[r.Alert] = r
	}
	fires := map[string]bool{}
	for _, test := range s.Tests {
		t.Run(test.Name, func(t *testing.T) {
			load := "load " + test.Interval.String() + "\n"
			for _, series := range test.Series {
				load += fmt.Sprintf("  %s %s\n", series.Series, series.Values)
			}
			stored := promqltest.LoadedStorage(t, load)
			for _, e := range test.Alerts {
				rule, ok := byName[e.Name]
				if !ok {
					t.Fatalf("there is no alert %s", e.Name)
				}
				var want []string
				for _, w := range e.Want {
					want = append(want, labels.FromMap(w.Labels).String())
				}
				got := firing(t, stored, rule, time.Duration(e.At), time.Duration(s.Interval))
				if !slices.Equal(got, want) {
					t.Errorf("%s at %s: fires for %v, want %v", e.Name, e.At, got, want)
				}
				fires[e.Name] = fires[e.Name] || len(want) > 0
			}
		})
	}
	for name := range byName {
		if !fires[name] {
			t.Errorf("no test lets %s fire", name)
		}
	}
}

// firing evaluates a rule from the start on and returns the labels of what fires at the time: what was there at every look for so long.
func firing(t *testing.T, stored storage.Queryable, rule rulefmt.Rule, at, interval time.Duration) []string {
	t.Helper()
	engine := promqltest.NewTestEngine(t, false, 0, 100000)
	since := map[string]time.Duration{}
	var last []string
	for now := time.Duration(0); now <= at; now += interval {
		query, err := engine.NewInstantQuery(context.Background(), stored, nil, rule.Expr, time.Unix(0, 0).Add(now))
		if err != nil {
			t.Fatal(err)
		}
		result := query.Exec(context.Background())
		vector, err := result.Vector()
		if err != nil {
			t.Fatal(err)
		}
		last = last[:0]
		active := map[string]time.Duration{}
		for _, sample := range vector {
			key := alertLabels(sample, rule)
			began, ok := since[key]
			if !ok {
				began = now
			}
			active[key] = began
			if now-began >= time.Duration(rule.For) {
				last = append(last, key)
			}
		}
		since = active
		query.Close()
	}
	slices.Sort(last)
	return slices.Clone(last)
}

func alertLabels(sample promql.Sample, rule rulefmt.Rule) string {
	b := labels.NewBuilder(sample.Metric)
	b.Del(labels.MetricName)
	for name, value := range rule.Labels {
		b.Set(name, value)
	}
	return b.Labels().String()
}

var anchor = regexp.MustCompile(`^https://github\.com/snakepit-k8s/snakepit/blob/main/(docs/[a-z/-]+\.md)#([a-z-]+)$`)

// Each alert says what it means, how bad it is, and leads to a heading that exists.
func TestRunbooks(t *testing.T) {
	for _, rule := range rules(t) {
		if rule.Annotations["summary"] == "" || (rule.Labels["severity"] != "warning" && rule.Labels["severity"] != "critical") {
			t.Errorf("%s has no summary, or no severity that is known", rule.Alert)
		}
		parts := anchor.FindStringSubmatch(rule.Annotations["runbook_url"])
		if parts == nil {
			t.Errorf("%s: %q is no page of docs/", rule.Alert, rule.Annotations["runbook_url"])
			continue
		}
		page, err := os.ReadFile(filepath.Join("../..", parts[1]))
		if err != nil {
			t.Error(err)
			continue
		}
		heading := regexp.MustCompile(`(?mi)^#+ ` + parts[2] + `$`)
		if parts[2] != strings.ToLower(rule.Alert) || !heading.Match(page) {
			t.Errorf("%s: %s has no heading for it", rule.Alert, parts[1])
		}
	}
}

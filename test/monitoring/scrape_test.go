package monitoring

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/teststorage"
	"go.yaml.in/yaml/v3"
)

const (
	// scrapeLimit is how long anything may take on a busy machine.
	scrapeLimit = 50 * time.Second
	// scrapes is how many of each target are waited for: a rate needs two.
	scrapes = 3
)

// emptyAtRest are panels without a series while nobody has called, no worker has ended and nothing was refused: their counters have labels, and a
// line begins with the first count.
var emptyAtRest = map[string]bool{
	"Calls per second": true, "Call duration": true, "Queue wait": true, "Worker ends per second": true, "Sessions lost": true,
	"Pools that wait for somebody": true, "Cleanup duration": true, "What should stay 0": true,
}

// What Prometheus itself stores of a running operator and a running router, scraped as docs/how-to/monitoring.md says, answers the queries of rules
// and dashboard. test/apiserver (TestScrape) starts both and this test with their addresses.
func TestScrape(t *testing.T) {
	operator, router, token := os.Getenv("SCRAPE_OPERATOR"), os.Getenv("SCRAPE_ROUTER"), os.Getenv("SCRAPE_TOKEN")
	if operator == "" {
		t.Skip("needs an operator and a router: TestScrape of test/apiserver starts them")
	}
	stored := teststorage.New(t)
	manager, err := scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(100 * time.Millisecond)},
		slog.New(slog.NewTextHandler(t.Output(), nil)), nil, stored, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.ApplyConfig(documented(t, token)); err != nil {
		t.Fatal(err)
	}
	found := make(chan map[string][]*targetgroup.Group, 1)
	found <- discovered(operator, router)
	ended := make(chan error, 1)
	go func() { ended <- manager.Run(found) }()
	t.Cleanup(func() {
		manager.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	engine := promqltest.NewTestEngine(t, false, 0, 100000)
	ask := func(expr string) promql.Vector {
		t.Helper()
		query, err := engine.NewInstantQuery(context.Background(), stored, nil, expr, time.Now())
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		defer query.Close()
		vector, err := query.Exec(context.Background()).Vector()
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		return append(promql.Vector(nil), vector...)
	}
	waitFor(t, func() string {
		up := ask(fmt.Sprintf("sum_over_time(up[1m]) >= %d", scrapes))
		if len(up) == 2 {
			return ""
		}
		return fmt.Sprintf("scraped so far: %v", ask("up"))
	})
	// Only what relabelling keeps was scraped, with the labels that it adds.
	for expr, want := range map[string]int{
		"up": 2, `up{job="snakepit-operator"}`: 1, `snakepit_router_workers_wanted{namespace="ml",pool="demo",pod="demo-1-0"}`: 1,
		`snakepit_operator_pool_ready{pool="scraped"} == 1`: 1,
	} {
		if got := ask(expr); len(got) != want {
			t.Errorf("%s gives %v, want %d series", expr, got, want)
		}
	}
	for _, rule := range rules(t) {
		if got := ask(rule.Expr); len(got) > 0 {
			t.Errorf("%s fires at rest: %v", rule.Alert, got)
		}
	}
	for _, panel := range dashboard(t).Panels {
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$namespace", ".*", "$pool", ".*").Replace(target.Expr)
			got := ask(expr)
			if len(got) == 0 && !emptyAtRest[panel.Title] {
				t.Errorf("panel %s: %s gives nothing", panel.Title, expr)
			}
		}
	}
}

func waitFor(t *testing.T, missing func() string) {
	t.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(scrapeLimit); ; <-tick.C {
		what := missing()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// documented is the configuration of the how-to guide. Only who is found by it (a cluster's pods) and where the token is are this test's.
func documented(t *testing.T, token string) *config.Config {
	t.Helper()
	page, err := os.ReadFile("../../docs/how-to/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(scrape_configs:.*?)^```").FindSubmatch(page)
	if block == nil {
		t.Fatal("docs/how-to/monitoring.md has no scrape_configs")
	}
	var content map[string]any
	if err := yaml.Unmarshal(block[1], &content); err != nil {
		t.Fatal(err)
	}
	jobs, _ := content["scrape_configs"].([]any)
	for _, job := range jobs {
		job, _ := job.(map[string]any)
		delete(job, "kubernetes_sd_configs")
		if job["authorization"] != nil {
			job["authorization"] = map[string]any{"credentials_file": token}
		}
	}
	content["global"] = map[string]any{"scrape_interval": "2s", "scrape_timeout": "2s"}
	text, err := yaml.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(string(text), slog.Default())
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}

// discovered is what a cluster would tell of the operator's and a router's pod: each has a port that must be scraped, and one that must not.
func discovered(operator, router string) map[string][]*targetgroup.Group {
	pod := func(address string, labels ...string) *targetgroup.Group {
		target := model.LabelSet{model.AddressLabel: model.LabelValue(address)}
		for i := 0; i < len(labels); i += 2 {
			target[model.LabelName("__meta_kubernetes_"+labels[i])] = model.LabelValue(labels[i+1])
		}
		return &targetgroup.Group{Source: address + labels[len(labels)-1], Targets: []model.LabelSet{target}}
	}
	ofOperator := []string{"pod_label_app_kubernetes_io_name", "snakepit-operator", "pod_container_port_name"}
	ofRouter := []string{"namespace", "ml", "pod_name", "demo-1-0", "pod_label_snakepit_dev_pool", "demo", "pod_label_snakepit_dev_serving", "true",
		"pod_container_port_name"}
	return map[string][]*targetgroup.Group{
		"snakepit-operator": {pod(operator, append(ofOperator, "metrics")...), pod(operator, append(ofOperator, "health")...)},
		"snakepit-routers":  {pod(router, append(ofRouter, "admin")...), pod(router, append(ofRouter, "grpc")...)},
	}
}

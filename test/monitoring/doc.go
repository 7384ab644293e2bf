// Package monitoring checks config/monitoring: each alert fires when rules_test.yaml says so, and rules and dashboard ask only for metrics and
// labels that docs/reference/metrics.md has, which is written from the code. TestScrape, started by test/apiserver, scrapes what runs.
package monitoring

// Package report turns measurements into what is told: medians with ranges, ratios of pairs, figures with bounds, a table and plots.
// It measures nothing, and the same result gives the same text.
package report

package monitoring

import (
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

var _ = rulefmt.Parse
var _ = promql.NewEngine
var _ = parser.ParseExpr
var _ = promqltest.LoadedStorage

func TestX(t *testing.T) {}

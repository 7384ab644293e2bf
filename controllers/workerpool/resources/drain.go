package resources

import (
	"strings"
	"unicode"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// DrainAsked says whether the pool carries the annotation that drains it, and the reason that was given, fit to be shown.
func DrainAsked(pool *v1alpha1.WorkerPool) (reason string, asked bool) {
	text, asked := pool.Annotations[v1alpha1.AnnotationDrain]
	var out strings.Builder
	n := 0
	for _, r := range strings.TrimSpace(text) {
		if n == v1alpha1.MaxDrainText {
			break
		}
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			out.WriteRune(r)
			n++
		}
	}
	return out.String(), asked
}

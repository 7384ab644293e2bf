package front

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// Every reason stands in the error catalogue with its code, and the catalogue names no other.
func TestErrorCatalogue(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`") {
			for _, m := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				names[m[1]] += cells[2]
			}
		}
	}
	for reason, code := range reasonCodes {
		want := strings.ToUpper(regexp.MustCompile("([a-z])([A-Z])").ReplaceAllString(code.String(), "${1}_$2"))
		if code == codes.Canceled {
			want = "CANCELLED" // gRPC's own name; Go's has one L
		}
		if !strings.Contains(names[string(reason)], want) {
			t.Errorf("docs/reference/errors.md says %q of %s, want %s", names[string(reason)], reason, want)
		}
		delete(names, string(reason))
	}
	for name := range names {
		t.Errorf("docs/reference/errors.md names %s, which no code uses", name)
	}
}

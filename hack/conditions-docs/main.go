// Conditions-docs writes the tables of docs/reference/conditions.md from the comments of the constants in api/v1alpha1: condition types,
// reasons of conditions, reasons of ends of workers, and reasons of Events. What stands between the markers of that page is replaced; all
// else is written by hand. A constant without meaning or cure is an error.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// page and sources, from the root of the checkout.
const page = "docs/reference/conditions.md"

var sources = []string{"api/v1alpha1/conditions.go", "api/v1alpha1/exit_types.go"}

// A table of the page: the prefix of its constants, and the titles of its columns by the parts of a comment.
type table struct {
	prefix  string
	columns []column
}

// A column shows a part of a comment: "name", "of" (in parentheses), "" (the meaning), or what follows "Cure:" and its like.
type column struct {
	title, part string
	required    bool
}

var tables = []table{
	{"Condition", []column{{"condition", "name", true}, {"on", "of", true}, {"True", "", true}, {"False", "False", false}, {"absent", "Absent", true}}},
	{"Reason", []column{{"reason", "name", true}, {"of", "of", false}, {"meaning and cause", "", true}, {"what to do", "Cure", true}}},
	{"Exit", []column{{"reason", "name", true}, {"meaning and cause", "", true}, {"what to do", "Cure", true}}},
	{"Event", []column{{"reason", "name", true}, {"type", "of", true}, {"when", "", true}, {"what to do", "Cure", true}}},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conditions-docs:", err)
		os.Exit(1)
	}
}

func run() error {
	var constants []constant
	for _, path := range sources {
		found, err := read(path)
		if err != nil {
			return err
		}
		constants = append(constants, found...)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	out, err := fill(string(text), constants)
	if err != nil {
		return err
	}
	return os.WriteFile(page, []byte(out), 0o644)
}

// fill replaces what stands between the markers of each table.
func fill(text string, constants []constant) (string, error) {
	for _, t := range tables {
		begin := fmt.Sprintf("<!-- generated from the constants %s… of api/v1alpha1 -->\n", t.prefix)
		const end = "<!-- end -->\n"
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return "", fmt.Errorf("%s has no line %q with %q after it", page, strings.TrimSpace(begin), strings.TrimSpace(end))
		}
		body, err := t.render(constants)
		if err != nil {
			return "", err
		}
		text = before + begin + body + end + after
	}
	return text, nil
}

func (t table) render(constants []constant) (string, error) {
	var b strings.Builder
	var missing []error
	for i, c := range t.columns {
		b.WriteString("| " + c.title + " ")
		if i == len(t.columns)-1 {
			b.WriteString("|\n" + strings.Repeat("|---", len(t.columns)) + "|\n")
		}
	}
	for _, one := range constants {
		if !strings.HasPrefix(one.name, t.prefix) {
			continue
		}
		for _, c := range t.columns {
			cell := one.part(c.part)
			if cell == "" && c.required {
				missing = append(missing, fmt.Errorf("the comment of %s does not say: %s", one.name, c.title))
			}
			b.WriteString("| " + cell + " ")
		}
		b.WriteString("|\n")
	}
	return b.String(), errors.Join(missing...)
}

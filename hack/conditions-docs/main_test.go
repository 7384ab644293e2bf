package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

func constants(t *testing.T) []constant {
	t.Helper()
	var all []constant
	for _, path := range sources {
		found, err := read(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// The page is what the comments say; make verify says so too.
func TestPageIsUpToDate(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	want, err := fill(string(text), constants(t))
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Errorf("%s is not what the comments say; run make generate", page)
	}
}

func TestParse(t *testing.T) {
	c := parse("ReasonX", "X", "ReasonX (Ready, Stalled): it | broke: so. False: never.\nCure: mend\nit; wait.\n")
	if c.of != "Ready, Stalled" || c.parts[""] != `it \| broke: so` || c.parts["False"] != "never" || c.parts["Cure"] != "mend it; wait" {
		t.Errorf("got %+v", c)
	}
	for _, comment := range []string{"", "ReasonX says nothing.", "ReasonX: no cure."} {
		if _, err := tables[1].render([]constant{parse("ReasonX", "X", comment)}); err == nil {
			t.Errorf("%q passes, and has no meaning or no cure", comment)
		}
	}
	if _, err := fill("no markers", nil); err == nil {
		t.Error("a page without markers passes")
	}
}

// code parses what is built of the two halves: no tests, no stand-ins.
func code(t *testing.T) (files map[string]*ast.File, set *token.FileSet) {
	t.Helper()
	files, set = map[string]*ast.File{}, token.NewFileSet()
	for _, half := range []string{"controllers", "router"} {
		err := filepath.WalkDir(filepath.Join(root, half), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files[path], err = parser.ParseFile(set, path, nil, 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files, set
}

// Each constant is used where conditions and Events are made, or in the schema's default.
func TestEachConstantIsUsed(t *testing.T) {
	used := map[string]bool{}
	files, _ := code(t)
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "v1alpha1" {
					used[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	schema, err := os.ReadFile(filepath.Join(root, "config/crd/bases/snakepit.dev_workerpools.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range constants(t) {
		if !used[c.name] && !strings.HasPrefix(c.name, "Exit") && !strings.Contains(string(schema), "reason: "+c.value+"\n") {
			t.Errorf("%s is documented and nobody says it", c.name)
		}
	}
}

// Conditions and Events are made from the constants: a literal stands neither where a reason goes, nor anywhere with the words of one.
func TestNoReasonIsALiteral(t *testing.T) {
	values := map[string]string{}
	for _, c := range constants(t) {
		if !strings.HasPrefix(c.name, "Exit") {
			values[c.value] = c.name
		}
	}
	files, set := code(t)
	calls := 0
	for path, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			for _, found := range reasons(n) {
				calls++
				if literal := text(found); literal != "" {
					t.Errorf("%s: the reason %q is a literal; use a constant of api/v1alpha1", set.Position(found.Pos()), literal)
				}
			}
			if lit, ok := n.(*ast.BasicLit); ok && aboutStatus(path) && values[text(lit)] != "" {
				t.Errorf("%s: %s is v1alpha1.%s", set.Position(lit.Pos()), lit.Value, values[text(lit)])
			}
			return true
		})
	}
	if calls < 40 {
		t.Errorf("only %d places where a reason is given were found: does this test still know how the code gives them?", calls)
	}
}

// aboutStatus leaves out what has words of its own: actions and kinds of the planners, states of workers in the router.
func aboutStatus(path string) bool {
	return filepath.Base(path) == "status.go" || strings.Contains(path, "controllers") && slices.Contains([]string{"facts.go", "podproblem.go", "apply.go", "announce.go"}, filepath.Base(path))
}

// reasonAt is the place of the reason among the arguments of a call, or the values of a literal without keys, by the name of function or type.
var reasonAt = map[string]int{"Put": 2, "put": 2, "event": 3, "Eventf": 3, "condition": 3, "is": 1, "verdict": 1, "refusal": 0}

// reasons returns the expressions in n that give a reason.
func reasons(n ast.Node) (found []ast.Expr) {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
		}
		if i, ok := reasonAt[name]; ok && i < len(n.Args) {
			found = append(found, n.Args[i])
		}
	case *ast.CompositeLit:
		name := ""
		switch kind := n.Type.(type) {
		case *ast.Ident:
			name = kind.Name
		case *ast.SelectorExpr:
			name = kind.Sel.Name
		}
		i, known := reasonAt[name]
		for at, element := range n.Elts {
			pair, keyed := element.(*ast.KeyValueExpr)
			switch {
			case keyed && name == "Condition" && pair.Key.(*ast.Ident).Name == "Reason":
				found = append(found, pair.Value)
			case !keyed && known && at == i:
				found = append(found, element)
			}
		}
	}
	return found
}

// text is the value of a string literal; empty for anything else.
func text(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	value, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return value
}

// The test above finds a literal wherever a reason may stand.
func TestLiteralsAreFound(t *testing.T) {
	for _, line := range []string{
		`set.Put("Ready", "True", "Typo", "")`, `put(kind, true, "Typo", "")`, `verdict{false, "Typo", ""}`, `&refusal{"Typo", ""}`,
		`metav1.Condition{Reason: "Typo"}`, `r.event(a, b, c, "Typo", "")`, `is(ok, "Typo", "")`,
	} {
		e, err := parser.ParseExpr(line)
		if err != nil {
			t.Fatal(err)
		}
		seen := ""
		ast.Inspect(e, func(n ast.Node) bool {
			for _, found := range reasons(n) {
				seen += text(found)
			}
			return true
		})
		if seen != "Typo" {
			t.Errorf("%s: found %q", line, seen)
		}
	}
}

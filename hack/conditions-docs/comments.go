package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// A constant and its comment.
type constant struct {
	name, value string
	// of is what stands in parentheses behind the name; parts are the sentences behind "Cure:" and its like, "" those before.
	of    string
	parts map[string]string
}

var (
	headline = regexp.MustCompile(`^\w+(?: \(([^)]*)\))?: `)
	marks    = regexp.MustCompile(`(?:^|\s)(Cure|False|Absent): `)
)

// read returns the string constants of a Go file, in their order.
func read(path string) ([]constant, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var out []constant
	for _, declared := range file.Decls {
		group, ok := declared.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			v := spec.(*ast.ValueSpec)
			literal, ok := v.Values[0].(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				continue
			}
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				return nil, err
			}
			out = append(out, parse(v.Names[0].Name, value, v.Doc.Text()))
		}
	}
	return out, nil
}

// parse takes a comment apart: NAME (of): meaning. Cure: what to do.
func parse(name, value, comment string) constant {
	c := constant{name: name, value: value, parts: map[string]string{}}
	text := strings.Join(strings.Fields(comment), " ")
	head := headline.FindStringSubmatch(text)
	if head == nil || !strings.HasPrefix(text, name) {
		return c
	}
	c.of, text = head[1], text[len(head[0]):]
	key := ""
	for {
		next := marks.FindStringSubmatchIndex(text)
		if next == nil {
			c.parts[key] = finish(text)
			return c
		}
		c.parts[key] = finish(text[:next[0]])
		key, text = text[next[2]:next[3]], text[next[1]:]
	}
}

// finish makes a cell of a sentence.
func finish(text string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(text), "."), "|", `\|`)
}

func (c constant) part(part string) string {
	switch part {
	case "name":
		return "`" + c.value + "`"
	case "of":
		return c.of
	}
	return c.parts[part]
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
)

// What the API server says when a router would get a right that the operator does not have, and when a policy of config/policy refuses.
const (
	escalation = "attempting to grant RBAC permissions not currently held"
	ownPolicy  = "ValidatingAdmissionPolicy 'snakepit-operator"
)

// A right is one verb on one resource (with its subresource), in one namespace or, when that is empty, in all.
type right struct{ group, resource, verb, namespace string }

func (r right) String() string {
	text := r.verb + " " + r.resource
	if r.group != "" {
		text += "." + r.group
	}
	if r.namespace != "" {
		text += " in " + r.namespace
	}
	return text
}

func (r right) allows(want right) bool {
	in := r.namespace == "" || r.namespace == want.namespace
	return in && r.group == want.group && r.resource == want.resource && r.verb == want.verb
}

// An account is a kind of user and what it may do.
type account struct {
	name    string
	is      func(user string) bool
	granted []right
	// exceptions are rights that need not be used, with the reason.
	exceptions map[right]string
}

type result struct {
	events, used, excepted int
	faults                 []string
}

func compare(a account, all []request) result {
	var r result
	used := map[right]bool{}
	faults := map[string]bool{}
	for _, q := range all {
		if !a.is(q.user) {
			continue
		}
		r.events++
		at := slices.IndexFunc(a.granted, func(g right) bool { return g.allows(q.right) })
		switch {
		case at < 0 && q.forbidden:
			faults[fmt.Sprintf("%s: refused and not among its rights: %s", a.name, q.right)] = true
		case at < 0:
			faults[fmt.Sprintf("%s: allowed by something else than its own rights: %s", a.name, q.right)] = true
		case strings.Contains(q.message, escalation) || strings.Contains(q.message, ownPolicy):
			faults[fmt.Sprintf("%s: %s: %s", a.name, q.right, q.message)] = true
		case !q.forbidden: // else its role was not there: make uninstall takes it while the operator ends
			used[a.granted[at]] = true
		}
	}
	for _, g := range a.granted {
		_, excepted := a.exceptions[g]
		switch {
		case used[g]:
			r.used++
		case excepted:
			r.excepted++
		default:
			faults[fmt.Sprintf("%s: has a right that it did not use: %s", a.name, g)] = true
		}
	}
	for e := range a.exceptions {
		if !slices.Contains(a.granted, e) {
			faults[fmt.Sprintf("%s: an exception is not among its rights: %s", a.name, e)] = true
		}
	}
	if r.events == 0 {
		faults[a.name+": no request in the log"] = true
	}
	r.faults = slices.Sorted(maps.Keys(faults))
	return r
}

// operatorRights reads the ClusterRole and the Role of the operator.
func operatorRights(path string) ([]right, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rights []right
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return rights, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var role rbacv1.Role // a ClusterRole has the same rules and no namespace
		if err := yaml.Unmarshal(document, &role); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		rights = append(rights, flatten(role.Namespace, role.Rules)...)
	}
}

// routerRights is what the Role of every pool gives; names and namespaces aside, which the API server's tests look at.
func routerRights() []right {
	return flatten("", resources.MakeRole(&v1alpha1.WorkerPool{}, []string{"group"}).Rules)
}

func flatten(namespace string, rules []rbacv1.PolicyRule) []right {
	var rights []right
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					rights = append(rights, right{group, resource, verb, namespace})
				}
			}
		}
	}
	return rights
}

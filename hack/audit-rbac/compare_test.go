package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recorded is the operator's account and the log of testdata.
func recorded(t *testing.T) (account, []request) {
	t.Helper()
	granted, err := operatorRights("testdata/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all, err := readLog("testdata/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	return account{"operator", isOperator, granted, nil}, all
}

func wantFaults(t *testing.T, got result, parts ...string) {
	t.Helper()
	if len(got.faults) != len(parts) {
		t.Fatalf("faults %q, want %d with %q", got.faults, len(parts), parts)
	}
	for i, part := range parts {
		if !strings.Contains(got.faults[i], part) {
			t.Errorf("fault %q, want one with %q", got.faults[i], part)
		}
	}
}

func TestRecordedRunIsInOrder(t *testing.T) {
	operator, all := recorded(t)
	got := compare(operator, all)
	wantFaults(t, got)
	if got.used != len(operator.granted) || got.used != 16 {
		t.Errorf("%d of %d rights are used, want all 16", got.used, len(operator.granted))
	}
	// The log holds a router's patch that was refused because the pool's Role went first.
	wantFaults(t, compare(account{"router", isRouter, routerRights(), routerExceptions}, all))
	wantFaults(t, compare(account{"router", isRouter, routerRights(), nil}, all), "did not use: get workergroups.snakepit.dev")
}

func TestUnusedRight(t *testing.T) {
	operator, all := recorded(t)
	secrets := right{"", "secrets", "get", ""}
	operator.granted = append(operator.granted, secrets)
	wantFaults(t, compare(operator, all), "did not use: get secrets")
	operator.exceptions = map[right]string{secrets: "a reason"}
	if got := compare(operator, all); len(got.faults) != 0 || got.excepted != 1 {
		t.Errorf("with an exception: %+v", got)
	}
	operator.granted = operator.granted[:len(operator.granted)-1]
	wantFaults(t, compare(operator, all), "exception is not among its rights: get secrets")
	// A watch that goes on counts as used; a right used in another namespace only does not.
	operator.exceptions = nil
	elsewhere := slices.Clone(operator.granted)
	for i := range elsewhere {
		if elsewhere[i].resource == "leases" {
			elsewhere[i].namespace = "elsewhere"
		}
	}
	operator.granted = elsewhere
	wantFaults(t, compare(operator, all),
		"something else than its own rights: create leases", "something else than its own rights: get leases", "something else than its own rights: update leases",
		"did not use: create leases", "did not use: get leases", "did not use: update leases", "refused and not among its rights: get leases")
}

func TestRefusedRequests(t *testing.T) {
	operator, all := recorded(t)
	pods := right{"", "pods", "create", "ns"}
	for part, more := range map[string]request{
		"refused and not among its rights: get secrets in ns":                    {right: right{"", "secrets", "get", "ns"}, forbidden: true},
		"allowed by something else than its own rights: delete nodes":            {right: right{"", "nodes", "delete", ""}},
		"attempting to grant RBAC permissions":                                   {right: pods, message: "roles is forbidden: user is attempting to grant RBAC permissions not currently held"},
		"ValidatingAdmissionPolicy 'snakepit-operator-pods' with binding denied": {right: pods, message: "pods is forbidden: ValidatingAdmissionPolicy 'snakepit-operator-pods' with binding denied"},
	} {
		more.user = operatorUser
		wantFaults(t, compare(operator, append(slices.Clone(all), more)), part)
	}
	// Its role was not there, which the stories of uninstalling do.
	wantFaults(t, compare(operator, append(slices.Clone(all), request{user: operatorUser, right: pods, forbidden: true})))
}

// A question about one's own rights needs none of ours; any other request of the operator is read.
func TestQuestionsAboutOneself(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	line := `{"verb":"create","user":{"username":"` + operatorUser + `"},"objectRef":{"resource":"%s","apiGroup":"authorization.k8s.io"}}` + "\n"
	text := fmt.Sprintf(line, "selfsubjectaccessreviews") + fmt.Sprintf(line, "subjectaccessreviews")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := readLog(file)
	if err != nil || len(all) != 1 || all[0].right.resource != "subjectaccessreviews" {
		t.Errorf("read %v, %v", all, err)
	}
}

func TestLogThatProvesNothing(t *testing.T) {
	operator, all := recorded(t)
	operator.granted = nil
	wantFaults(t, compare(operator, nil), "no request in the log")
	if len(all) == 0 {
		t.Error("nothing is read")
	}
	broken := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(broken, []byte("{}\n{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLog(broken); err == nil || !strings.Contains(err.Error(), "audit.log:2") {
		t.Errorf("a broken line gives %v, want an error with its place", err)
	}
	if err := run(t.TempDir()); err == nil {
		t.Error("a folder without logs is taken")
	}
}

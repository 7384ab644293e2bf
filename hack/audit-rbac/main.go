// Audit-rbac compares the rights that the operator and the routers have with the rights that they used, by the audit log of the API server of a
// local cluster on which the end-to-end stories ran. A right that nobody used and a request that RBAC refused are errors, except for the rights
// that exceptions.go names.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Where the operator's rights are, from the root of the checkout.
const rolesFile = "config/rbac/role.yaml"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: audit-rbac FOLDER (with the files audit*.log of kube-apiserver), in the root of the checkout")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "audit-rbac:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	granted, err := operatorRights(rolesFile)
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(folder, "audit*.log"))
	if err != nil || len(logs) == 0 {
		return errors.Join(fmt.Errorf("no audit*.log in %s", folder), err)
	}
	var all []request
	for _, path := range logs {
		some, err := readLog(path)
		if err != nil {
			return err
		}
		all = append(all, some...)
	}
	var faults []error
	for _, a := range []account{
		{"operator", isOperator, granted, operatorExceptions},
		{"router", isRouter, routerRights(), routerExceptions},
	} {
		result := compare(a, all)
		fmt.Printf("audit-rbac: %s: %d events, %d of %d rights used, %d are exceptions\n", a.name, result.events, result.used, len(a.granted), result.excepted)
		for _, fault := range result.faults {
			faults = append(faults, errors.New(fault))
		}
	}
	return errors.Join(faults...)
}

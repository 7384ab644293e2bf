// Package datapath injects faults into the whole data path: the real router binary, a real supervisor, real Python workers, and callers that keep
// a record of all that they were told. It needs Linux and the Python environment of `make venv`, but no Kubernetes.
//
// The ids of the tests are those of the fault catalogue: S1 history under kills, S2 one owner, S6 what broke when, and so on. A test whose load
// stayed under its minimum is void and fails. Figures go to the file that FIGURES names; those that depend on how fast the machine is now (byClock) fail
// make figures when they are beyond their bound, and no test.
package datapath

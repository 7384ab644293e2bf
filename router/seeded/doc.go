// Package seeded holds known bugs that the tests of the router must catch. Each is off (off.go), and one is on only in a program that is built with
// the tag seeded and the bug's name (on.go); a name that is unknown, or none, ends such a program as it starts.
//
// It proves that the tests can fail. Nothing else belongs here.
package seeded

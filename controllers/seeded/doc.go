// Package seeded holds known bugs that the fault suites must catch: each is off, and on only in a test binary built with its tag.
//
// It proves that the suites can fail. Nothing else belongs here.
package seeded

// Package seeded holds known bugs that the tests of the router must catch: each is off, and on only in a test binary built with its tag.
//
// It proves that the tests can fail. Nothing else belongs here.
package seeded

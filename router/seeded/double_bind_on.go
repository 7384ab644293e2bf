//go:build seeded_double_bind

package seeded

// DoubleBind checks that a name is absent, and binds it later without looking again.
const DoubleBind = true

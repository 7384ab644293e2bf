//go:build seeded_rechosen_victims

package seeded

// RechosenVictims chooses on each look which group is to end, whatever was marked before.
const RechosenVictims = true

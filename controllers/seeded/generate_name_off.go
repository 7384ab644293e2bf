//go:build !seeded_generate_name

package seeded

// GenerateName lets the API server choose the names of pods.
const GenerateName = false

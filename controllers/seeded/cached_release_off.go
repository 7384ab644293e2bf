//go:build !seeded_cached_release

package seeded

// CachedRelease asks the cache, and not the API server, whether anything is left before a finalizer goes.
const CachedRelease = false

#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_TIME (30s) each. What it finds is kept under testdata/fuzz of the package; inputs of interest stay in Go's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZ_TIME:-30s}
targets=$(grep -rlE '^func Fuzz' --include='*_test.go' api router controllers | sort)
[ -n "$targets" ] || { echo "fuzz: no target found" >&2; exit 1; }
for file in $targets; do
  for name in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/^func //'); do
    echo "fuzz: ${name} for ${time}"
    go test -run '^$' -fuzz "^${name}\$" -fuzztime "$time" "./$(dirname "$file")"
  done
done

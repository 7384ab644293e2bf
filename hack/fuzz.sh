#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_TIME (30s) each. What it finds is kept under testdata/fuzz of the package; inputs of interest stay in Go's cache.
# The number of executions of each is added to the file that FIGURES names (F1: what callers send, F2: frames).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZ_TIME:-30s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

figure() { # target executions
  [ -n "${FIGURES:-}" ] || return 0
  local id=F1
  case "$1" in FuzzDecode | FuzzReadFrame) id=F2 ;; esac
  mkdir -p "$(dirname "$FIGURES")"
  printf '{"id":"%s","figure":"%s: executions without a crash","value":%d,"unit":"executions","ok":true,"runs":1,"seed":0,"commit":"%s","command":"make fuzz"}\n' \
    "$id" "$1" "$2" "$(git describe --always --dirty)" >>"$FIGURES"
}

targets=$(grep -rlE '^func Fuzz' --include='*_test.go' api router controllers | sort)
[ -n "$targets" ] || { echo "fuzz: no target found" >&2; exit 1; }
for file in $targets; do
  for name in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/^func //'); do
    echo "fuzz: ${name} for ${time}"
    go test -run '^$' -fuzz "^${name}\$" -fuzztime "$time" "./$(dirname "$file")" | tee "$log"
    figure "$name" "$(grep -oE 'execs: [0-9]+' "$log" | tail -1 | grep -oE '[0-9]+')"
  done
done

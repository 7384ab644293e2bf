#!/usr/bin/env bash
# Proves that the tests of the router can fail: each seeded bug of router/seeded is built in, and a test must catch it.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

caught() { # tag
  local status=0
  go test -count=1 -tags "$1" ./router/dispatch -args -rapid.shrinktime=1s >"$log" 2>&1 || status=$?
  # A run that fails because it does not build has caught nothing.
  if [ "$status" = 0 ] || ! grep -q -- '--- FAIL' "$log"; then
    tail -40 "$log" >&2
    echo "seeded: the bug $1 was NOT caught" >&2
    return 1
  fi
  echo "seeded: the bug $1 was caught by $(grep -m1 -E -- '--- FAIL' "$log" | sed 's/.*FAIL: //')"
}

caught seeded_forget_release
caught seeded_fifo_reorder
caught seeded_double_bind

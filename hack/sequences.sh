#!/usr/bin/env bash
# Runs SEQUENCES (2000) random sequences of commands through each test of a model: planners, session table, dispatch, queues. A test that fails prints
# its seed and the shortest sequence. How many were run is added to the file that FIGURES names (F5).
set -euo pipefail
cd "$(dirname "$0")/.."
checks=${SEQUENCES:-2000}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

models() { # what pattern package...
  local what=$1 pattern=$2 status=0 count
  shift 2
  go test -count=1 -v -run "$pattern" "$@" -rapid.checks="$checks" >"$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then cat "$log"; fi
  count=$(sed -n 's/.*\[rapid\] OK, passed \([0-9]*\) tests.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  echo "sequences: ${what}: ${count} equal the model"
  if [ "$count" -lt "$checks" ]; then status=1; fi
  if [ -n "${FIGURES:-}" ]; then
    mkdir -p "$(dirname "$FIGURES")"
    printf '{"id":"F5","figure":"%s: sequences that equal the model","value":%d,"unit":"sequences","bound":">=%d","ok":%s,"runs":1,"seed":0,"commit":"%s","command":"make sequences"}\n' \
      "$what" "$count" "$checks" "$([ "$status" = 0 ] && echo true || echo false)" "$(git describe --always --dirty)" >>"$FIGURES"
  fi
  return "$status"
}

failed=0
models "planner" '^TestConverges$' ./controllers/workergroup/plan ./controllers/workerpool/plan || failed=1
models "session table" '^TestTheTableEqualsTheModel$' ./router/session || failed=1
models "dispatch" '^(TestDispatchKeepsItsInvariants|TestQueuesEqualTheModel)$' ./router/dispatch ./router/dispatch/fair || failed=1
exit "$failed"

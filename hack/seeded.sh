#!/usr/bin/env bash
# Proves that the tests can fail: each seeded bug of router/seeded is built in, each of worker-image/tests/seeded is put into the workers, and a test
# must catch it.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

caught() { # bug command...
  local status=0
  "${@:2}" >"$log" 2>&1 || status=$?
  # A run that fails because it does not build has caught nothing.
  if [ "$status" = 0 ] || ! grep -q -- '--- FAIL' "$log"; then
    tail -40 "$log" >&2
    echo "seeded: the bug $1 was NOT caught" >&2
    return 1
  fi
  echo "seeded: the bug $1 was caught by $(grep -m1 -E -- '--- FAIL' "$log" | sed 's/.*FAIL: //')"
}

by_dispatch() { # tag
  caught "$1" go test -count=1 -tags "$1" ./router/dispatch -args -rapid.shrinktime=1s -rapid.nofailfile
}

by_datapath() { # bug test variable
  caught "$1" env "$3=$1" go test -count=1 -run "^$2\$" ./test/datapath
}

by_dispatch seeded_forget_release
by_dispatch seeded_fifo_reorder
by_dispatch seeded_double_bind
if [ ! -x .venv/bin/python ]; then
  echo "seeded: left out: bugs on the data path need the Python environment; to run them: make venv"
  exit 0
fi
by_datapath seeded_repeat_accepted TestS6CutAtEveryPlace ROUTER_TAGS
by_datapath ignore-epoch TestS1StaleEpochIsRefused DATAPATH_SEEDED_BUG
by_datapath accept-after-decode TestS6bDeathsOfWorkers DATAPATH_SEEDED_BUG

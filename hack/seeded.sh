#!/usr/bin/env bash
# Proves that the tests can fail: each seeded bug of router/seeded is built in, each of worker-image/tests/seeded is put into the workers, and a test
# must catch it for the bug's own reason: a test that fails because nothing builds or starts has caught nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A run that fails on purpose is no figure.
unset FIGURES

caught() { # bug, what the test must say, command...
  local status=0 said
  "${@:3}" >"$log" 2>&1 || status=$?
  said=$(grep -m1 -E -- "_test\.go:[0-9]+: .*$2" "$log") || true
  if [ "$status" = 0 ] || [ -z "$said" ]; then
    tail -40 "$log" >&2
    echo "seeded: the bug $1 was NOT caught" >&2
    return 1
  fi
  echo "seeded: the bug $1 was caught: $(sed -E 's/^ *//' <<<"$said")"
}

by_dispatch() { # bug, what the test must say
  caught "$1" "$2" go test -count=1 -tags=seeded -ldflags="-X=github.com/snakepit-k8s/snakepit/router/seeded.bug=$1" ./router/dispatch \
    -args -rapid.shrinktime=1s -rapid.nofailfile
}

by_datapath() { # variable, bug, test, what it must say
  caught "$2" "$4" env "$1=$2" go test -count=1 -run "^$3\$" ./test/datapath
}

by_dispatch forget_release 'dispatch counts [0-9]+ queued, [0-9]+ reserved; the model '
by_dispatch fifo_reorder 'calls of one life out of order'
by_dispatch double_bind 'two lives of .* at a time'
if [ ! -x .venv/bin/python ]; then
  echo "seeded: left out: bugs on the data path need the Python environment; to run them: make venv"
  exit 0
fi
by_datapath ROUTER_SEEDED_BUG repeat_accepted TestS6CutAtEveryPlace 'after Accepted: told OK .* after 2 runs'
by_datapath ROUTER_SEEDED_BUG forget_losses TestS4LossesOutliveTheRouter 'losses that the next router did not tell is [0-9]+ '
by_datapath WORKER_SEEDED_BUG ignore-epoch TestS1StaleEpochIsRefused 'calls run under an epoch that is not held is 1 '
by_datapath WORKER_SEEDED_BUG accept-after-decode TestS6bDeathsOfWorkers 'killed while it decoded: told .* NOT_STARTED'

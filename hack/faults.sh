#!/usr/bin/env bash
# Crash at every write (R1): every point of a pool's life must pass, and each seeded bug must be caught.
# KUBEBUILDER_ASSETS names the folder with etcd and kube-apiserver (make faults sets it).
set -euo pipefail
cd "$(dirname "$0")/.."

# Points spend most of their time waiting, so more of them run at a time than there are cores.
go test -race -count=1 -timeout 20m -parallel 6 ./test/faults

caught() { # tag, points that must catch it
  local log
  log=$(mktemp)
  if go test -count=1 -timeout 10m -parallel 6 -tags "$1" -run "$2" ./test/faults >"$log" 2>&1; then
    echo "faults: the seeded bug $1 was NOT caught by $2" >&2
    rm -f "$log"
    return 1
  fi
  # A suite that fails for another reason, such as a build error, has caught nothing.
  if ! grep -q '^        --- FAIL: TestCrashAtEveryWrite/points/' "$log"; then
    tail -30 "$log" >&2
    rm -f "$log"
    echo "faults: with the seeded bug $1 no point failed" >&2
    return 1
  fi
  echo "faults: the seeded bug $1 was caught by $(grep -c '^        --- FAIL: TestCrashAtEveryWrite/points/' "$log") points, such as $(grep -m1 -o 'TestCrashAtEveryWrite/points/[^ ]*' "$log")"
  rm -f "$log"
}

caught seeded_late_finalizer 'TestCrashAtEveryWrite/points/k=[1-9],.*,userDeletes'
caught seeded_delete_by_name 'TestCrashAtEveryWrite/points/.*,userReplaces'

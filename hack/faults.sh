#!/usr/bin/env bash
# Crash at every write (R1): a pool's life must survive a fault at each of its writes, and each seeded bug must be caught.
#   FAULTS=sample (default)  each write's position with some of its faults, chosen by FAULTS_SEED (default 1)
#   FAULTS=all               every fault at every position
# KUBEBUILDER_ASSETS names the folder with etcd and kube-apiserver (make faults sets it). Figures are added to out/figures.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${KUBEBUILDER_ASSETS:?names no folder with etcd and kube-apiserver; run make faults, which sets it}"
export FAULTS=${FAULTS:-sample} FAULTS_SEED=${FAULTS_SEED:-1}
echo "faults: FAULTS=${FAULTS} FAULTS_SEED=${FAULTS_SEED}"

# Points spend most of their time waiting, so more of them run at a time than there are cores.
points=6
FIGURES="$PWD/out/figures.jsonl" go test -race -v -count=1 -timeout 30m -parallel "$points" ./test/faults |
  { grep -vE '^=== (RUN|PAUSE|CONT|NAME) ' || true; }

# R7: the leader killed, stopped and asked to end. R13: pools of an earlier operator (UPGRADE_FROM) under this one.
FIGURES="$PWD/out/figures.jsonl" go test -race -v -count=1 -timeout 15m -parallel 5 ./test/leader ./test/upgrade |
  { grep -vE '^=== (RUN|PAUSE|CONT|NAME) ' || true; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# caught wants the suite to fail with a seeded bug, for the bug's own reason: one that fails because it does not build has caught nothing.
caught() { # tag, points that must catch it, what they must say
  local status=0 stories
  FAULTS=all go test -v -count=1 -timeout 10m -parallel "$points" -tags "$1" -run "TestCrashAtEveryWrite/$2" ./test/faults >"$log" 2>&1 || status=$?
  stories=$(grep -oE '^    --- FAIL: TestCrashAtEveryWrite/k=[^ ]*' "$log" | sed 's/.*--- FAIL: //' | sort -t= -k2n) || true
  if [ "$status" = 0 ] || [ -z "$stories" ] || ! grep -q "$3" "$log"; then
    grep -vE '^=== ' "$log" | tail -40 >&2
    echo "faults: the seeded bug $1 was NOT caught" >&2
    return 1
  fi
  echo "faults: the seeded bug $1 was caught by $(wc -l <<<"$stories") points; the shortest story is $(head -1 <<<"$stories"):"
  echo "faults:  $(grep -m1 "$3" "$log" | sed 's/^ *[a-z_]*\.go:[0-9]*://')"
}

caught seeded_late_finalizer 'k=[1-9],after,userDeletes' 'was there when its owner'
caught seeded_delete_by_name 'k=.*,held,userReplaces' 'which the user made, was deleted'

#!/usr/bin/env bash
# Crash at every write (R1): a pool's life must survive a fault at each of its writes; the leader (R7) and the world (R2 to R14); and each seeded bug
# must be caught.
#   FAULTS=sample (default)  one fault at each write's position, chosen by FAULTS_SEED (default 1)
#   FAULTS=all               every fault at every position
# KUBEBUILDER_ASSETS names the folder with etcd and kube-apiserver (make faults sets it). Figures are added to out/figures.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${KUBEBUILDER_ASSETS:?names no folder with etcd and kube-apiserver; run make faults, which sets it}"
export FAULTS=${FAULTS:-sample} FAULTS_SEED=${FAULTS_SEED:-1}
echo "faults: FAULTS=${FAULTS} FAULTS_SEED=${FAULTS_SEED}"

# One run tells of every suite that fails.
failed=0
# Points spend most of their time waiting, so more of them run at a time than there are cores; most where all run, for half an hour.
points=6
if [ "$FAULTS" = all ]; then points=10; fi
FIGURES="$PWD/out/figures.jsonl" hack/gotest.sh -race -count=1 -timeout 90m -parallel "$points" ./test/faults || failed=1

# R7: the leader killed, stopped and asked to end. R13: pools of an earlier operator (UPGRADE_FROM) under this one.
FIGURES="$PWD/out/figures.jsonl" hack/gotest.sh -race -count=1 -timeout 15m -parallel 5 ./test/leader ./test/upgrade || failed=1

# The world around the operator (R2 to R6, R8, R9, R12, R14): a package of its own, which waits even more.
FIGURES="$PWD/out/figures.jsonl" hack/gotest.sh -race -count=1 -timeout 30m -parallel 12 ./test/operator || failed=1

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# caught wants a suite to fail with a seeded bug, for the bug's own reason: one that fails because it does not build has caught nothing.
caught() { # bug, package, tests that must catch it, lines that they must say
  local status=0 said log="$logs/$1"
  # In the environment, because suites build the operator as a program, too. A run that fails on purpose is no figure.
  FIGURES='' FAULTS='' GOFLAGS="$(go env GOFLAGS) -tags=seeded -ldflags=-X=github.com/snakepit-k8s/snakepit/controllers/seeded.bug=$1" \
    go test -v -count=1 -timeout 10m -parallel "$points" -run "$3" "$2" >"$log" 2>&1 || status=$?
  said=$(grep -E "$4" "$log") || true
  if [ "$status" = 0 ] || [ -z "$said" ]; then
    grep -vE '^=== ' "$log" | tail -40 >&2
    echo "faults: the seeded bug $1 was NOT caught" >&2
    return 1
  fi
  # One printf: others of these write at the same time. Of many stories the shortest.
  printf 'faults: the seeded bug %s was caught by %s of %s:\nfaults:   %s\n' "$1" "$(wc -l <<<"$said")" "$3" \
    "$(sed -E 's/^R1: failed: (.*after ([0-9]+) lines of story.*)/\2 \1/' <<<"$said" | sort -n | sed -nE '1s/^( +|[0-9]+ )//p')"
}

# without_bug wants the same points to pass: what fails anyway has caught nothing either.
without_bug() { # points
  local log="$logs/none"
  if ! FIGURES='' FAULTS='' go test -v -count=1 -timeout 10m -parallel "$points" -run "$1" ./test/faults >"$log" 2>&1; then
    grep -vE '^=== ' "$log" | tail -40 >&2
    echo "faults: points that must catch a seeded bug fail without it" >&2
    return 1
  fi
  echo "faults: without a bug the same points pass"
}

# Each is mostly waiting, too.
at_a_time=5
running=() missed=0 all_points=""
await() {
  for pid in "${running[@]}"; do wait "$pid" || missed=$((missed + 1)); done
  running=()
}
begin() {
  "$@" &
  running+=("$!")
  if [ "${#running[@]}" -ge "$at_a_time" ]; then await; fi
}
# Points are given by name, so that one golden life is enough.
seed() { # bug, points that must catch it, what they must say
  all_points+="${all_points:+|}^TestCrashAtEveryWrite\$/$2"
  begin caught "$1" ./test/faults "^TestCrashAtEveryWrite\$/$2" "^R1: failed: .*$3"
}
seed late_finalizer 'growth/.*POST-roles,after,userDeletes' 'was there when its owner'
seed generate_name 'growth/.*POST-pods,late,restart' 'lived at the same time'
# The pool sees that the API server knows a group that it does not: it makes no second one, and stays without any.
seed state_in_memory 'growth/.*POST-workergroups,after,restart' 'no group of pool pool serves yet'
seed cached_release 'growth/.*POST-workergroups,late,userDeletes' 'was there when its owner'
seed delete_by_name 'growth/.*DELETE-services,held,userReplaces' 'which the user made, was deleted'
seed apply_without_uid 'growth/.*PATCH-workergroups,held,userReplaces' 'which the user made, was taken over'
seed status_from_old 'replacement/k=1,PATCH-workerpools,before,restart' 'is carried out, and it was not'
seed rechosen_victims 'replacement/.*PATCH-workergroups,after,userReverts' 'was marked to drain, and the mark was taken away'
# Preconditions and names keep the invariants without the fence, too, in most rounds; so what the fence itself promises is counted.
begin caught no_fence ./test/leader '^TestStopped$' '_test\.go:[0-9]+: the stopped leader sent [0-9]+ writes when its lease had run out'
begin without_bug "$all_points"
await
[ "$missed" = 0 ] && [ "$failed" = 0 ]

#!/usr/bin/env bash
# Everything that CI checks, in the order in which a mistake is cheapest to find. Each stage prints its elapsed time.
# Where the cluster of two nodes cannot run (no root, no Linux) the rest runs, and one line says what was left out.
set -uo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
failed=() passed=0 out=""

stage() { # name, command…
  local name=$1 since=$SECONDS
  shift
  echo "=== ${name}"
  if "$@"; then
    passed=$((passed + 1))
    echo "=== ${name}: ok ($((SECONDS - since)) s)"
  else
    failed+=("$name")
    echo "=== ${name}: FAILED ($((SECONDS - since)) s)"
  fi
}

cluster_possible() {
  [ "${CLUSTER:-local}" = current ] || { [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; }
}

e2e() {
  # Two nodes: one is cut off, drained and brought back while the stories run.
  if [ "${CLUSTER:-local}" = local ]; then make cluster-up NODES=2 || return 1; fi
  make images && make install && make test-e2e
}

stage "python environment" make venv
stage "generated files" make verify
stage "lint" make lint
stage "known vulnerabilities" make vuln
stage "python tests" make test-python
stage "go unit tests" make test-unit
stage "alerts and dashboard" make test-monitoring
stage "seeded bugs of the router" make seeded
stage "models" make sequences
stage "fuzz" make fuzz FUZZ_TIME=20s
stage "api server tests" make test-apiserver
stage "nodes and drains" make test-drains
stage "faults: crash at every write" make faults
stage "many pools" make scale
stage "faults: data path" make datapath-faults
stage "soak" make soak SOAK=3m
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] && [ "${CLUSTER:-local}" = local ]; then
  stage "local cluster leaves nothing" env SNAKEPIT_CLUSTER_TEST=1 go -C hack/local-cluster test -count=1 ./...
fi
if cluster_possible; then
  stage "end to end on real nodes" e2e
else
  out="left out: end-to-end tests need root on Linux for nodes of their own; to run them on your cluster: CLUSTER=current make test"
fi
echo
if [ -n "$out" ]; then echo "$out"; fi
if [ "${#failed[@]}" -gt 0 ]; then printf 'failed: %s\n' "${failed[@]}"; fi
echo "elapsed: $((SECONDS - started)) s"
echo "stages: ${passed} passed, ${#failed[@]} failed"
[ "${#failed[@]}" = 0 ]

#!/usr/bin/env bash
# install.sh apply|delete: the CRDs and the operator, with plain kubectl. Uninstalling deletes pools, then CRDs, then the operator, so that nothing
# is left behind, and refuses to go on when one of them does not go. UNINSTALL_TIMEOUT is the wait for each, in seconds (300).
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl=${KUBECTL:-kubectl}
repository=${IMAGE_REPOSITORY:-localhost/snakepit}
limit=${UNINSTALL_TIMEOUT:-300}

manifests() { "$kubectl" kustomize config/default | sed "s#localhost/snakepit/#${repository}/#g"; }

refuse() {
  echo "uninstall: $1" >&2
  exit 1
}

# reachable ends with a next step when there is no cluster to speak with.
reachable() {
  local why
  if ! command -v "$kubectl" >/dev/null; then
    echo "$1: there is no $kubectl: make cluster-up starts a local cluster; for your own set CLUSTER=current and install kubectl" >&2
    exit 1
  fi
  if ! why=$("$kubectl" --request-timeout=10s get --raw=/version 2>&1 >/dev/null); then
    echo "$1: the cluster does not answer (make cluster-status): ${why##*$'\n'}" >&2
    exit 1
  fi
}

# The pools and groups of all namespaces, one NAMESPACE/NAME a line.
pools() {
  "$kubectl" get workerpools.snakepit.dev,workergroups.snakepit.dev --all-namespaces \
    -o go-template='{{range .items}}{{.kind}} {{.metadata.namespace}}/{{.metadata.name}}{{"\n"}}{{end}}'
}

delete_pools() {
  if ! "$kubectl" get crd workerpools.snakepit.dev >/dev/null 2>&1; then return; fi
  local left ready
  left=$(pools)
  if [ -z "$left" ]; then return; fi
  ready=$("$kubectl" -n snakepit-system get deployment snakepit-operator --ignore-not-found -o jsonpath='{.status.readyReplicas}' 2>/dev/null || true)
  if [ "${ready:-0}" = 0 ]; then
    printf 'uninstall: left are\n%s\n' "$left" >&2
    refuse "the operator does not run, and only it can end them: make install, then make uninstall again. Without an operator: docs/how-to/cleanup.md"
  fi
  echo "uninstall: deleting every WorkerPool first"
  if ! "$kubectl" delete workerpools.snakepit.dev --all --all-namespaces --timeout="${limit}s" || [ -n "$(pools)" ]; then
    "$kubectl" get workerpools.snakepit.dev,workergroups.snakepit.dev --all-namespaces -o wide >&2
    refuse "these do not go (the message says why); the operator stays until they are gone. To force one: docs/how-to/cleanup.md"
  fi
}

case "${1:-}" in
  apply)
    reachable install
    known=$("$kubectl" -n snakepit-system get deployment snakepit-operator --ignore-not-found -o name 2>/dev/null || true)
    manifests | "$kubectl" apply -f -
    # The image keeps its name while one develops: an operator that runs already takes the new one by a restart.
    if [ -n "$known" ]; then "$kubectl" -n snakepit-system rollout restart deployment/snakepit-operator >/dev/null; fi
    "$kubectl" -n snakepit-system rollout status deployment/snakepit-operator --timeout=120s
    ;;
  delete)
    reachable uninstall
    delete_pools
    # While the operator runs: a pool that was made just now ends as well, and no other can follow.
    "$kubectl" delete crd workerpools.snakepit.dev workergroups.snakepit.dev --ignore-not-found --timeout="${limit}s" ||
      refuse "the CRDs do not go; the operator stays until they are gone"
    manifests | "$kubectl" delete --ignore-not-found --wait=true -f -
    ;;
  *)
    echo "usage: hack/install.sh apply|delete" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# install.sh apply|delete: the CRDs and the operator, with plain kubectl. Uninstalling deletes the pools first, so that nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl=${KUBECTL:-kubectl}
repository=${IMAGE_REPOSITORY:-localhost/snakepit}

manifests() { "$kubectl" kustomize config/default | sed "s#localhost/snakepit/#${repository}/#g"; }

case "${1:-}" in
  apply)
    known=$("$kubectl" -n snakepit-system get deployment snakepit-operator --ignore-not-found -o name 2>/dev/null || true)
    manifests | "$kubectl" apply -f -
    # The image keeps its name while one develops: an operator that runs already takes the new one by a restart.
    if [ -n "$known" ]; then "$kubectl" -n snakepit-system rollout restart deployment/snakepit-operator >/dev/null; fi
    "$kubectl" -n snakepit-system rollout status deployment/snakepit-operator --timeout=120s
    ;;
  delete)
    if "$kubectl" get crd workerpools.snakepit.dev >/dev/null 2>&1; then
      echo "uninstall: deleting every WorkerPool first"
      "$kubectl" delete workerpools.snakepit.dev --all --all-namespaces --timeout=300s || {
        echo "uninstall: some pools are still there (kubectl get wpool -A says why); the operator stays until they are gone" >&2
        exit 1
      }
    fi
    manifests | "$kubectl" delete --ignore-not-found --wait=true -f -
    ;;
  *)
    echo "usage: hack/install.sh apply|delete" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# kube-score over what is installed, beside the network policy that it is offered with. config/limits_test.go asks for more; left out here is:
#   a limit of CPU: it would throttle the operator when nobody else wants the CPU
#   ephemeral storage: the root file system is read-only, and the kubelet bounds the log
#   imagePullPolicy Always: images have versions, and those of a local cluster are in no registry
# Warnings pass: one replica is enough (leader election), and egress differs between clusters.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go tool -modfile=hack/tools/kustomize/go.mod kustomize build config/network-policy >"$work/policy.yaml"
for file in dist/install.yaml dist/install-namespaced.yaml; do
  if ! go tool -modfile=hack/tools/kube-score/go.mod kube-score score --output-format=ci --kubernetes-version=v1.34 --ignore-container-cpu-limit \
    --ignore-test=container-ephemeral-storage-request-and-limit,container-image-pull-policy "$file" "$work/policy.yaml" >"$work/out" 2>&1; then
    grep -vE '^\[(OK|SKIPPED)\]' "$work/out" >&2
    echo "score: $file: see above" >&2
    exit 1
  fi
done

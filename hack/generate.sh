#!/usr/bin/env bash
# Writes every generated file: protobuf (Go and Python descriptors), deepcopy, CRDs, RBAC and the reference pages made from code.
set -euo pipefail
cd "$(dirname "$0")/.."
gen() { go tool -modfile=hack/tools/gen/go.mod "$@"; }
buf() { go tool -modfile=hack/tools/buf/go.mod buf "$@"; }

echo "generate: protobuf"
buf generate
.venv/bin/python worker-image/generate.py
echo "generate: deepcopy, CRDs, RBAC"
gen controller-gen object paths=./api/v1alpha1/...
gen controller-gen crd paths=./api/v1alpha1/... output:crd:dir=config/crd/bases
go run ./hack/crd-trim config/crd/bases/*.yaml
gen controller-gen rbac:roleName=snakepit-operator paths=./controllers/... output:rbac:dir=config/rbac
echo "generate: reference pages"
gen crd-ref-docs --log-level=ERROR --source-path=api/v1alpha1 --config=hack/tools/gen/crd-ref-docs.yaml --renderer=markdown --output-path=docs/reference/api.md
go run ./hack/conditions-docs
go run ./hack/metrics docs/reference/metrics.md

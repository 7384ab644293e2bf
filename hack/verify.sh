#!/usr/bin/env bash
# Fails when a generated file differs from what `make generate` writes. The files are then up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
generated=(api config/crd config/rbac dist docs/reference worker-image/src/snakepit)
for path in "${generated[@]}"; do
  mkdir -p "$copy/$path"
  cp -a "$path/." "$copy/$path/"
done
hack/generate.sh
status=0
for path in "${generated[@]}"; do
  diff -rq -x __pycache__ "$copy/$path" "$path" || status=1
done
if [ "$status" != 0 ]; then
  echo "verify: generated files differed (named above) and are now up to date; commit them" >&2
fi
exit "$status"

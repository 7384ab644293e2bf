#!/usr/bin/env bash
# Writes dist/: everything that an installation needs, in one file, for kubectl apply -f.
#   IMAGE_REPOSITORY (default localhost/snakepit)  where the operator's image is
#   IMAGE_TAG        (default dev)                 its tag
# What make generate writes, and git holds, has the defaults.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE_REPOSITORY:-localhost/snakepit}/operator:${IMAGE_TAG:-dev}
folder=${1:-dist}
mkdir -p "$folder"

write() { # kustomization, file
  { echo "# Generated from $1 by make generate; other images: make dist IMAGE_REPOSITORY=… IMAGE_TAG=…"
    go tool -modfile=hack/tools/kustomize/go.mod kustomize build "$1" | sed "s#localhost/snakepit/operator:dev#${image}#g"
  } >"$folder/$2"
  echo "dist: $folder/$2, with the image $image"
}

write config/default install.yaml
if [ -d config/namespaced ]; then write config/namespaced install-namespaced.yaml; fi

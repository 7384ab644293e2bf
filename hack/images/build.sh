#!/usr/bin/env bash
# build.sh operator|worker|all: build the images and write them to bin/images/*.tar.
# Go binaries and Python wheels are made on the host, so that no build needs a registry.
#
#   IMAGE_REPOSITORY  names are IMAGE_REPOSITORY/operator:dev and …/worker:dev (default localhost/snakepit)
#   PYTHON_IMAGE      base of the worker image (default: with buildah the base image of the local cluster,
#                     which needs debootstrap and no registry; else python:3.11-slim)
#   VERSION           what the binaries say of themselves (default: dev-<commit>)
#   CONTAINER_TOOL    buildah, podman or docker (default: the first that is there and usable)
#   SNAKEPIT_CACHE    cache folder (default ~/.cache/snakepit)
set -euo pipefail
cd "$(dirname "$0")/../.."

repository=${IMAGE_REPOSITORY:-localhost/snakepit}
cache=${SNAKEPIT_CACHE:-$HOME/.cache/snakepit}
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
version=${VERSION:-dev-$commit}
out=bin/images
mkdir -p "$out" "$cache"

fail() {
  echo "images: $1" >&2
  exit "${2:-1}"
}

say() { printf 'images: %s %s\n' "$(printf '%-48s' "$1 " | tr ' ' '.')" "${2:-}"; }

# container_tool prints the tool that builds. buildah needs root here, the others bring their own way.
container_tool() {
  local tool
  for tool in ${CONTAINER_TOOL:-buildah podman docker}; do
    command -v "$tool" >/dev/null || continue
    if [[ $tool == buildah && $(id -u) != 0 && -z ${CONTAINER_TOOL:-} ]]; then continue; fi
    echo "$tool"
    return
  done
  fail "none of buildah (as root), podman and docker is here; on Debian: apt-get install buildah" 2
}

# in_store runs buildah with an image store and a mount namespace of its own: nothing of the machine's is
# touched, and a build that is killed leaves no mount.
in_store() {
  unshare --mount --propagation private buildah --root "$cache/buildah/root" --runroot "$cache/buildah/run" --storage-driver overlay "$@"
}

# clean_store removes what builds that were broken off have left, and layers that no image needs any more.
clean_store() {
  rm -rf "$cache/buildah/run"
  in_store rm --all >/dev/null
  in_store rmi --prune --force >/dev/null
}

# build_archive NAME DOCKERFILE CONTEXT [BUILD-ARG…] builds an image and writes its archive.
build_archive() {
  local name=$1 dockerfile=$2 context=$3 image="$repository/$1:dev" tool arg
  shift 3
  local args=()
  for arg in "$@"; do args+=(--build-arg "$arg"); done
  tool=$(container_tool)
  rm -f "$out/$name.tar"
  if [[ $tool == buildah ]]; then
    mkdir -p "$cache/buildah"
    # Two checkouts share the store and its names, so one builds at a time.
    (
      flock 9
      clean_store
      in_store bud --quiet --isolation chroot --layers --force-rm --pull=false --signature-policy hack/images/policy.json \
        "${args[@]}" --file "$dockerfile" --tag "$image" "$context" >"$out/$name.log" 2>&1 ||
        { tail -n 25 "$out/$name.log" >&2; fail "buildah could not build $image; its whole output is in $out/$name.log"; }
      in_store push --quiet --signature-policy hack/images/policy.json "$image" "docker-archive:$out/$name.tar:$image"
      clean_store
    ) 9>"$cache/buildah/lock"
  else
    "$tool" build --quiet "${args[@]}" --file "$dockerfile" --tag "$image" "$context" >/dev/null
    "$tool" save --output "$out/$name.tar" "$image"
  fi
}

# unchanged NAME HASH: the archive is there and was made from the same inputs.
unchanged() { [[ -f $out/$1.tar && $(cat "$out/$1.inputs" 2>/dev/null) == "$2" ]]; }

# hash_of prints one hash over files (their names and content) and texts given as text:….
hash_of() {
  local each
  for each in "$@"; do
    if [[ $each == text:* ]]; then echo "$each"; else sha256sum "$each"; fi
  done | sha256sum | cut -c1-16
}

operator() {
  local began=$SECONDS inputs name package
  for name in manager:. router:./router; do
    package=${name#*:}
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "bin/${name%%:*}" "$package"
  done
  inputs=$(hash_of bin/manager bin/router Dockerfile .dockerignore "text:$repository")
  if unchanged operator "$inputs"; then
    say "$repository/operator:dev" "unchanged"
    return
  fi
  build_archive operator Dockerfile .
  echo "$inputs" >"$out/operator.inputs"
  say "$repository/operator:dev" "$((SECONDS - began))s"
}

# dependency_wheels prints a folder with every wheel of the lock, for the image's CPython 3.11 on x86_64.
dependency_wheels() {
  local folder
  folder=$cache/wheels/$(hash_of worker-image/requirements.lock)
  if [[ ! -d $folder ]]; then
    mkdir -p "$cache/wheels"
    rm -rf "$folder.new"
    python3 -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
      --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
      --requirement worker-image/requirements.lock --dest "$folder.new" >&2
    mv "$folder.new" "$folder"
  fi
  echo "$folder"
}

# build_environment prints a Python with the wheel's build backend, in the versions that the lock names.
build_environment() {
  local lock=worker-image/requirements-dev.lock folder
  folder=$cache/wheel-build/$(hash_of "$lock" "text:$(python3 --version)")
  if [[ ! -f $folder/complete ]]; then
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    grep -oE '^[A-Za-z0-9._-]+==[^ ]+' "$lock" >"$folder/constraints.txt"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint "$folder/constraints.txt" hatchling >&2
    touch "$folder/complete"
  fi
  echo "$folder/bin/python"
}

# own_wheel FOLDER builds the project's own wheel into FOLDER.
own_wheel() {
  local python
  python=$(build_environment)
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$1" ./worker-image
}

# import_base puts the local cluster's Python base image into the store, once for each version of it.
import_base() {
  local archive known
  archive=$(go -C hack/local-cluster run . python-base)
  known=localhost/python:$(basename "$(dirname "$archive")")
  mkdir -p "$cache/buildah"
  (
    flock 9
    if in_store inspect --type image "$known" >/dev/null 2>&1; then return; fi
    in_store pull --quiet --signature-policy hack/images/policy.json "docker-archive:$archive:$known" >/dev/null
    in_store tag "$known" localhost/python:base
  ) 9>"$cache/buildah/lock"
}

worker() {
  local began=$SECONDS sources inputs wheels base context
  base=${PYTHON_IMAGE:-}
  if [[ -z $base ]]; then
    base=python:3.11-slim
    if [[ $(container_tool) == buildah ]]; then base=localhost/python:base; fi
  fi
  mapfile -t sources < <(find worker-image/src worker-image/pyproject.toml worker-image/README.md worker-image/Dockerfile \
    worker-image/requirements.lock -type f ! -path '*/__pycache__/*' | LC_ALL=C sort)
  inputs=$(hash_of "${sources[@]}" hack/images/build.sh "text:$repository $base")
  if unchanged worker "$inputs"; then
    say "$repository/worker:dev" "unchanged"
    return
  fi
  wheels=$(dependency_wheels)
  context=$out/worker-context
  rm -rf "$context"
  mkdir -p "$context/wheels/deps" "$context/wheels/project"
  # With their times: buildah builds a layer again when a file is newer.
  cp --preserve=timestamps "$wheels"/*.whl "$context/wheels/deps/"
  own_wheel "$context/wheels/project"
  if [[ $base == localhost/python:base ]]; then import_base; fi
  build_archive worker worker-image/Dockerfile "$context" "PYTHON_IMAGE=$base"
  rm -rf "$context"
  echo "$inputs" >"$out/worker.inputs"
  say "$repository/worker:dev" "$((SECONDS - began))s"
}

# Two builds in one checkout would write the same files.
exec 8>"$out/lock"
flock 8

case "${1:-}" in
  operator) operator ;;
  worker) worker ;;
  all)
    operator
    worker
    ;;
  *) fail "usage: hack/images/build.sh operator|worker|all" 2 ;;
esac

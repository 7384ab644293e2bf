#!/usr/bin/env bash
# go test -v for the long suites: without the lines that only say which test goes on, and with what each failed test said once more at the end. Tests
# run beside one another there, so that the reason of a failure stands between the lines of others.
set -euo pipefail
cd "$(dirname "$0")/.."
go tool -modfile=hack/tools/gotestsum/go.mod gotestsum --format standard-verbose --hide-summary skipped -- "$@" |
  { grep --line-buffered -vE '^=== (RUN|PAUSE|CONT|NAME) ' || true; }

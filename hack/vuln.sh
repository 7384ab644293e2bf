#!/usr/bin/env bash
# Known vulnerabilities in what the operator and the router call (govulncheck). The database is VULNDB, a folder in govulncheck's layout or a .tar.xz
# of one; without it, the online one. Its date is printed: a check is as good as that. With no database at all nothing is checked, and that is said.
set -uo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
db=()
if [ -n "${VULNDB:-}" ]; then
  folder=$VULNDB
  if [ -f "$VULNDB" ]; then
    tar -xJf "$VULNDB" -C "$work" || { echo "vuln: cannot unpack VULNDB=$VULNDB" >&2; exit 1; }
    folder=$work
  fi
  index=$(find "$folder" -path '*/index/db.json' -print -quit)
  [ -n "$index" ] || { echo "vuln: no index/db.json in VULNDB=$VULNDB" >&2; exit 1; }
  db=(-db "file://$(realpath "$(dirname "$index")/..")")
fi
status=0
go tool -modfile=hack/tools/govulncheck/go.mod govulncheck "${db[@]}" -show version ./... >"$work/out" 2>&1 || status=$?
if [ "$status" = 1 ] && [ -z "${VULNDB:-}" ] && grep -qE 'fetching|dial tcp|no such host|https?://' "$work/out"; then
  tail -2 "$work/out"
  echo "vuln: NOT CHECKED: the online database cannot be reached; set VULNDB to a copy of it"
  exit 0
fi
sed 's/^/vuln: /' "$work/out"
exit "$status"

#!/bin/bash
# make_venv.sh: makes .venv at the root with the pinned packages of every requirements.txt under
# tests/. Made anew only when one of those files changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t files < <(find tests -name requirements.txt | sort)
[ ${#files[@]} -gt 0 ] || { echo "make_venv.sh: no requirements.txt under tests/" >&2; exit 1; }
want=$(cat "${files[@]}" | sha256sum)
[ "$(cat .venv/requirements.sha256 2> /dev/null)" = "$want" ] && exit 0
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check "${files[@]/#/-r}"
echo "$want" > .venv/requirements.sha256

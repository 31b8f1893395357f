#!/bin/bash
# run.sh: every lint check; all run even if one fails. Format and clang-tidy look at changed files (see
# changed_files.py), the others at the whole tree. Needs a configured release build for clang-tidy.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
step() {
  local name=$1
  shift
  "$@" || { echo "lint: $name failed" >&2; status=1; }
}

step "self test" python3 tools/lint/self_test.py
step includes python3 tools/lint/check_includes.py
step names python3 tools/lint/check_names.py
step types python3 tools/lint/check_types.py
step paths python3 tools/lint/check_paths.py
step headers python3 tools/lint/check_headers.py

mapfile -t sources < <(python3 tools/lint/changed_files.py --suffix .h .cc)
[ ${#sources[@]} -eq 0 ] || step clang-format clang-format-16 --dry-run -Werror "${sources[@]}"
step clang-tidy python3 tools/lint/run_clang_tidy.py
[ $status -eq 0 ] && echo "lint: ok"
exit $status

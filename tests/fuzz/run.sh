#!/bin/bash
# run.sh BIN_DIR OUT_DIR [TARGET...]: fuzzes with the programs BIN_DIR/TARGET_fuzz, all of them when
# none is named, FUZZ_SECONDS each (60), FUZZ_JOBS of them at once (1). Corpora grow in
# OUT_DIR/corpus, findings and logs lie in OUT_DIR/findings. Fails when anything was found.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ]; then
  echo "usage: $0 BIN_DIR OUT_DIR [TARGET...]" >&2
  exit 2
fi
bin=$(cd "$1" && pwd) || exit 2
mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 2
shift 2
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for program in "$bin"/*_fuzz; do targets+=("$(basename "$program" _fuzz)"); done
fi
# A packed folder brings its libraries along.
[ -d "$here/lib" ] && export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export UBSAN_OPTIONS=print_stacktrace=1

# A template may use its whole budget of steps: a fifth of a second in a release build, twenty here.
timeout=90

fuzz_one() {
  local name=$1 seconds=${FUZZ_SECONDS:-60}
  mkdir -p "$out/corpus/$name" "$out/findings/$name"
  "$bin/${name}_fuzz" "$out/corpus/$name" "$here/corpus/$name" "-dict=$here/dictionaries/$name.dict" \
    "-artifact_prefix=$out/findings/$name/" "-max_total_time=$seconds" "-timeout=$timeout" \
    -malloc_limit_mb=256 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
    > "$out/findings/$name.log" 2>&1
  local status=$? runs
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/findings/$name.log")
  if [ $status -eq 0 ]; then
    echo "$name: ${runs:-0} inputs in $seconds s, nothing found"
    return 0
  fi
  echo "$name: FOUND, see $out/findings/$name.log and $out/findings/$name/"
  return 1
}
export -f fuzz_one
export bin out here timeout
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-1}" -I{} bash -c 'fuzz_one {}'

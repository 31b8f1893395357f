#!/bin/bash
# coverage.sh BUILD_DIR [CORPUS_DIR]: replays the seeds, and the corpora that fuzzing has grown in
# CORPUS_DIR, with programs built by the preset fuzz-coverage, and prints the line coverage of each
# parser by its own fuzzer. Fails when one is below 80 %.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1 grown=${2:-}
cd "$here/../.."
status=0

# report TARGET FILE...: the parser's files, as paths or globs.
report() {
  local name=$1 program="$build/bin/$1_fuzz" inputs=("$here/corpus/$1")
  shift
  [ -n "$grown" ] && [ -d "$grown/$name" ] && inputs+=("$grown/$name")
  LLVM_PROFILE_FILE="$build/$name.profraw" "$program" "${inputs[@]}" > "$build/$name.log" 2>&1
  llvm-profdata-16 merge -sparse "$build/$name.profraw" -o "$build/$name.profdata"
  llvm-cov-16 export -summary-only -instr-profile "$build/$name.profdata" "$program" 2> /dev/null |
    python3 "$here/coverage_table.py" "$name" 80 "$@" || status=1
}

printf '%-14s %-36s %7s %9s\n' fuzzer file lines covered
report safetensors src/checkpoint/safetensors.cc
report index src/checkpoint/checkpoint.cc
# shellcheck disable=SC2046
report config src/checkpoint/config.cc $(ls src/arch/*.cc | grep -v _test)
report yaml src/checkpoint/yaml.cc src/cli/yaml_args.cc
# shellcheck disable=SC2046
report tokenizer $(ls src/tokenizer/*.cc | grep -vE '_test|incremental_detokenizer|stop_matcher|text_tool')
# shellcheck disable=SC2046
report chat_template $(ls src/chat/*.cc | grep -v _test)
report openai src/server/openai_schema.cc src/server/request_fields.cc
report http src/server/http_connection.cc
exit $status

#!/bin/bash
# pack.sh BIN_DIR TARGET_DIR: gathers the fuzz programs, stripped, with the
# shared libraries that they load, corpora, dictionaries and run.sh: a folder that runs elsewhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$1 target=$2
mkdir -p "$target/bin" "$target/lib"
for program in "$bin"/*_fuzz; do
  objcopy --strip-all "$program" "$target/bin/$(basename "$program")"
  # All but the C library itself, which belongs to the machine.
  ldd "$program" | awk '$3 ~ /^\// {print $3}' | grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv)\.so' |
    xargs -r cp -Lu -t "$target/lib"
done
cp -r "$here/corpus" "$here/dictionaries" "$here/run.sh" "$here/README.md" "$target/"
du -sh "$target/bin" "$target/lib" "$target"

#!/bin/bash
# study_report.sh STUDY.yaml DIR: runs a study of `bench latency` and makes all that is said of it, in DIR:
# machine.json, results/, report/ with tables and figures, forest.json. Goes on where it was stopped.
#
# SLUICE is the binary (build/release/bin/sluice), PYTHON one with studies/requirements.txt installed (python3).
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
sluice=${SLUICE:-build/release/bin/sluice}
python=${PYTHON:-python3}
here=$(dirname "$0")
mkdir -p "$2/report"
[ -e "$2/machine.json" ] || "$sluice" profile --device cpu --out "$2/machine.json"
"$sluice" study run "$1" --out "$2/results"
"$python" "$here/analyse.py" "$2/results" --out "$2/report" | tee "$2/report/anova.txt"
"$python" "$here/roofline.py" "$2/machine.json" "$2/results" --out "$2/report"
"$python" "$here/train_predictor.py" "$2/results" --out "$2/forest.json" | tee "$2/report/predictor.txt"

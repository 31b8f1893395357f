#!/bin/bash
# run_tests.sh: runs the unit tests of the release build with ctest, then the Python tests under
# tests/ against build/release/bin/sluice. Both run even if the first fails. Ends with one line
# "N passed, N failed" over both, where a ctest entry is one room's test program.
set -uo pipefail
cd "$(dirname "$0")/../.."
reports=build/release/reports
mkdir -p "$reports" && rm -f "$reports"/*.xml
status=0
ctest --preset release -j "$(sh tools/setup/jobs.sh 1)" --output-junit "$PWD/$reports/ctest.xml" || status=1
if bash tools/test/make_venv.sh; then
  .venv/bin/python -m pytest -q tests --junitxml "$reports/pytest.xml" || status=1
else
  status=1
fi
python3 tools/test/count_tests.py "$reports/ctest.xml" "$reports/pytest.xml" || status=1
exit $status

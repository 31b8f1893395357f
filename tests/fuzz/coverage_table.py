"""coverage_table.py FUZZER PERCENT: reads `llvm-cov export -summary-only` and prints a line a file
and their total; fails when the total of lines covered is below PERCENT."""
import json
import os
import sys


def main():
    fuzzer, least = sys.argv[1], float(sys.argv[2])
    data = json.load(sys.stdin)["data"][0]
    for entry in sorted(data["files"], key=lambda entry: entry["filename"]):
        lines = entry["summary"]["lines"]
        path = os.path.relpath(entry["filename"])
        print(f"{fuzzer:14} {path:36} {lines['count']:7} {lines['percent']:8.1f}%")
    lines = data["totals"]["lines"]
    mark = "" if lines["percent"] >= least else f"  below {least:g} %"
    print(f"{fuzzer:14} {'all':36} {lines['count']:7} {lines['percent']:8.1f}%{mark}", flush=True)
    return 0 if lines["percent"] >= least else 1


if __name__ == "__main__":
    sys.exit(main())

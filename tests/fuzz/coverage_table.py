"""coverage_table.py FUZZER PERCENT FILE...: reads `llvm-cov export -summary-only` and prints the
lines of each FILE that were run, and of all; fails when fewer than PERCENT of all were."""
import json
import sys


def main():
    fuzzer, least, files = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    lines = {}
    for entry in json.load(sys.stdin)["data"][0]["files"]:
        for file in files:
            if ("/" + entry["filename"]).endswith("/" + file):
                lines[file] = entry["summary"]["lines"]
    count = covered = 0
    for file in files:
        if file not in lines:
            continue  # declarations alone: no line of it runs
        count += lines[file]["count"]
        covered += lines[file]["covered"]
        print(f"{fuzzer:14} {file:36} {lines[file]['count']:7} {lines[file]['percent']:8.1f}%")
    percent = 100.0 * covered / max(count, 1)
    mark = "" if percent >= least else f"  below {least:g} %"
    print(f"{fuzzer:14} {'all':36} {count:7} {percent:8.1f}%{mark}", flush=True)
    return 0 if percent >= least else 1


if __name__ == "__main__":
    sys.exit(main())

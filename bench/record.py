"""Runs `sluice bench ... --json` some times and keeps the result under bench/results/.

    python3 bench/record.py NAME [--runs N] [--peer TEXT] -- latency --batch-size 8 ...

Writes bench/results/NAME.json: the command, commit, date and machine, and the full output of every
run with its raw samples. Needs build/release/bin/sluice, built from a clean checkout: a result of
uncommitted code is refused.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def require_clean_checkout():
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("record.py: the checkout has changes that are not committed")


def write_result(name, command, runs, peer=None):
    result = {
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "runs": runs,
    }
    if peer:
        result["peer"] = peer
    path = ROOT / "bench/results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.relative_to(ROOT))


def main():
    if "--" not in sys.argv:
        sys.exit(__doc__)
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", help="the published figure that this answers, kept beside it")
    arguments = parser.parse_args(sys.argv[1:split])
    require_clean_checkout()

    command = ["build/release/bin/sluice", "bench", *sys.argv[split + 1 :], "--json"]
    runs = []
    for _ in range(arguments.runs):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    write_result(arguments.name, command, runs, arguments.peer)


if __name__ == "__main__":
    main()

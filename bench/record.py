"""Runs `sluice bench ... --json` some times and keeps the result under bench/results/.

    python3 bench/record.py NAME [--runs N] [--peer TEXT] [--baseline COMMAND ...]
                            [--sluice PROGRAM] [--commit HASH] [--out DIR] [--server FLAGS]
                            -- latency --batch-size 8 ...

Writes NAME.json: the command, commit, date and machine, and the full output of every run with its
raw samples, beside what each baseline command (bench/baselines/) printed in between. Needs
build/release/bin/sluice, or the program that --sluice names, built from a clean checkout: a result
of uncommitted code is refused. --commit says which commit the program is of, for a machine that has
no git repository. With --server, `sluice serve FLAGS` runs meanwhile, and is what `bench serve`
loads; one server answers all the runs.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import shlex
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


def write_result(name, command, runs, peer=None, baselines=(), commit=None, out=None):
    result = {
        "command": command,
        "commit": commit or git("rev-parse", "HEAD"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "runs": runs,
    }
    if peer:
        result["peer"] = peer
    if baselines:
        result["baselines"] = baselines
    path = pathlib.Path(out or ROOT / "bench/results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


def run_json(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"record.py: {shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def serving(sluice, flags):
    """A server on a free port; gives its address."""
    command = [sluice, "serve", "--port", "0", *flags]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if line.startswith("listening on "):
                yield line.split()[2]
                break
        else:
            sys.exit(f"record.py: {shlex.join(command)} did not come up")
    finally:
        server.terminate()
        server.wait()


def main():
    if "--" not in sys.argv:
        sys.exit(__doc__)
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", help="the published figure that this answers, kept beside it")
    parser.add_argument("--baseline", action="append", default=[])
    parser.add_argument("--sluice", default="build/release/bin/sluice")
    parser.add_argument("--commit")
    parser.add_argument("--out")
    parser.add_argument("--server", help="flags of the server that `bench serve` is to load")
    arguments = parser.parse_args(sys.argv[1:split])
    if arguments.commit is None:
        require_clean_checkout()

    bench = ["bench", *sys.argv[split + 1 :], "--json"]
    command = ["sluice", *bench]
    if arguments.server is None:
        runs = [run_json([arguments.sluice, *bench]) for _ in range(arguments.runs)]
    else:
        flags = shlex.split(arguments.server)
        command = ["sluice", "serve", *flags, "&", *command]
        with serving(arguments.sluice, flags) as url:
            bench += ["--base-url", url]
            runs = [run_json([arguments.sluice, *bench]) for _ in range(arguments.runs)]
    baselines = [
        {"command": command, "result": run_json(shlex.split(command))}
        for command in arguments.baseline
    ]
    write_result(
        arguments.name,
        command,
        runs,
        arguments.peer,
        baselines,
        arguments.commit,
        arguments.out,
    )


if __name__ == "__main__":
    main()

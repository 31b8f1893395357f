"""Prints the files to lint, one a line: those that differ from the merge base with the main branch, and
new ones; every file of the tree in CI (variable CI set) or where there is no merge base.
"""

import argparse
import os
import subprocess
from pathlib import Path

import lint_files


def git(root, *arguments):
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def merge_base(root):
    """The commit where this branch left the main branch, None where there is none to be found."""
    for branch in ("origin/HEAD", "origin/main", "main"):
        base = git(root, "merge-base", "HEAD", branch)
        # On the main branch itself all of its history is the base: nothing would ever be checked.
        if base and base != git(root, "rev-parse", "HEAD"):
            return base.strip()
    return None


def changed_files(root):
    base = None if os.environ.get("CI") else merge_base(root)
    everything = lint_files.tree_files(root)
    if base is None:
        return everything
    changed = set(git(root, "diff", "--name-only", base).splitlines())
    changed |= set(git(root, "ls-files", "-o", "--exclude-standard").splitlines())
    return [path for path in everything if path.as_posix() in changed]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suffix", nargs="+", default=[], help="only files that end so")
    parser.add_argument("--under", default="", help="only files of this folder")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    for path in changed_files(root):
        if arguments.suffix and path.suffix not in arguments.suffix:
            continue
        if path.as_posix().startswith(arguments.under):
            print(path)


if __name__ == "__main__":
    main()

"""What every check needs: the tree's files, the floor table, and how a violation is reported."""

import argparse
import re
import subprocess
import sys
from pathlib import Path


def parse_root(description):
    """Parses the one flag that every check takes, --root, and returns it as a Path."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", default=Path(__file__).resolve().parents[2], type=Path)
    return parser.parse_args().root.resolve()


def tree_files(root, under=""):
    """Files of the tree below `under`, as sorted paths relative to root.

    In a git checkout: tracked files and new ones that git does not ignore. Elsewhere: all files.
    """
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard", "--", under or "."]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        names = sorted(set(name for name in listed.split("\0") if name))
        return [Path(name) for name in names if (root / name).is_file()]
    found = (path.relative_to(root) for path in (root / under).rglob("*") if path.is_file())
    return sorted(found)


def read_floors(root):
    """The rooms in order of cmake/floors.cmake, as a list of (room, floor)."""
    text = (root / "cmake/floors.cmake").read_text()
    rooms = []
    for floor, names in re.findall(r"set\(SLUICE_FLOOR_(\d+)\s+([^)]*)\)", text):
        rooms += [(name, int(floor)) for name in names.split()]
    if not rooms:
        raise SystemExit("cmake/floors.cmake: expected lines set(SLUICE_FLOOR_<n> room ...), found none")
    return rooms


def report(check, violations):
    """Prints the violations, one a line, and returns the exit code."""
    for violation in violations:
        print(violation)
    print(f"{check}: {len(violations)} violation(s)" if violations else f"{check}: ok", file=sys.stderr)
    return 1 if violations else 0

"""Fails on an include that climbs: a room sees lower floors and earlier rooms of its own floor.

The rule and the order are cmake/floors.cmake's. Project headers are included with quotes and by their
path from src/.
"""

import re
import sys

import lint_files

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
SOURCES = {".h", ".cc", ".cu", ".cuh"}


def check(root):
    rooms = lint_files.read_floors(root)
    order = {room: index for index, (room, _) in enumerate(rooms)}
    floor = dict(rooms)
    violations = []
    for path in lint_files.tree_files(root, "src"):
        if path.suffix not in SOURCES:
            continue
        room = path.parts[1]
        if room not in order:
            violations.append(f"{path}:1: room '{room}' is not in cmake/floors.cmake")
            continue
        for number, line in enumerate((root / path).read_text().splitlines(), start=1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1).split("/")[0]
            if not (root / "src" / match.group(1)).is_file():
                violations.append(f'{path}:{number}: "{match.group(1)}" is not a path from src/')
            elif order.get(target, len(order)) > order[room]:
                violations.append(
                    f"{path}:{number}: {room} (floor {floor[room]}) includes {target} "
                    f"(floor {floor.get(target, '?')}): only lower floors and earlier rooms of the "
                    "same floor may be included"
                )
    return violations


if __name__ == "__main__":
    sys.exit(lint_files.report("includes", check(lint_files.parse_root(__doc__))))

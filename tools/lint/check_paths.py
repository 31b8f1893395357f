"""Fails on what belongs to one machine or bloats a clone: absolute machine paths, host names of package
registries, and files over 3 MB other than the embedded model's.
"""

import re
import sys

import lint_files

MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|root|tmp|home/\w+|Users/\w+|scratch)/")
REGISTRY = re.compile(
    r"\b(?:deb\.debian\.org|security\.debian\.org|archive\.ubuntu\.com|security\.ubuntu\.com"
    r"|pypi\.org|files\.pythonhosted\.org|registry\.npmjs\.org|proxy\.golang\.org|crates\.io)\b"
)
MAX_BYTES = 3_000_000
LARGE_ALLOWED = ("models/storyteller/",)
# The checks' own sources and tests spell out what they look for.
TEXT_EXEMPT = ("tools/lint/",)


def check(root):
    violations = []
    for path in lint_files.tree_files(root):
        name = path.as_posix()
        size = (root / path).stat().st_size
        if size > MAX_BYTES:
            if not name.startswith(LARGE_ALLOWED):
                violations.append(f"{path}:1: {size} bytes, the limit is {MAX_BYTES}")
            continue
        try:
            text = (root / path).read_text()
        except UnicodeDecodeError:
            continue
        if name.startswith(TEXT_EXEMPT):
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            for kind, pattern in (("machine path", MACHINE_PATH), ("registry host", REGISTRY)):
                match = pattern.search(line)
                if match:
                    violations.append(f"{path}:{number}: {kind} '{match.group(0)}'")
    return violations


if __name__ == "__main__":
    sys.exit(lint_files.report("paths", check(lint_files.parse_root(__doc__))))

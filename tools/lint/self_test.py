"""Proves that each check can fail, and passes where it should: every case is a small tree with one fault,
or none, and what the check must say about it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLOORS = "set(SLUICE_FLOOR_0 base device)\nset(SLUICE_FLOOR_1 ops)\n"
GOOD = {"src/base/a.h": "#pragma once\n#include <string>\ninline std::string A() { return {}; }\n"}
IN_N = "namespace n {{\n{}\n}}  // namespace n\n"
UNNAMED = "namespace {\nstruct B {};\n}  // namespace\n"

# (check, what is tried, files beside GOOD, expected part of the output; None = must pass)
CASES = [
    ("check_includes", "a lower floor", {"src/ops/b.h": '#pragma once\n#include "base/a.h"\n'}, None),
    ("check_includes", "an earlier room", {"src/device/b.h": '#pragma once\n#include "base/a.h"\n'}, None),
    (
        "check_includes",
        "a higher floor",
        {"src/ops/b.h": "#pragma once\n", "src/base/c.cc": '#include "base/a.h"\n#include "ops/b.h"\n'},
        "src/base/c.cc:2: base (floor 0) includes ops (floor 1)",
    ),
    (
        "check_includes",
        "a later room of the same floor",
        {"src/device/b.h": "#pragma once\n", "src/base/c.cc": '#include "device/b.h"\n'},
        "src/base/c.cc:1: base (floor 0) includes device (floor 0)",
    ),
    ("check_includes", "a relative include", {"src/base/c.cc": '#include "a.h"\n'}, "src/base/c.cc:1:"),
    ("check_includes", "a room of no floor", {"src/attic/c.cc": "\n"}, "'attic' is not in"),
    ("check_headers", "good headers", {}, None),
    ("check_headers", "a missing include", {"src/ops/b.h": "#pragma once\nstd::string B();\n"}, "src/ops/b.h:1:"),
    ("check_headers", "a missing #pragma once", {"src/ops/b.h": "struct B {};\n"}, "src/ops/b.h:1:"),
    ("check_names", "a family in arch/", {"src/arch/m.cc": "// Mixtral\n"}, None),
    ("check_names", "a family in a unit test", {"src/ops/b_test.cc": "// Mixtral\n"}, None),
    ("check_names", "a family in a comment", {"src/ops/b.cc": "\n// as in Mixtral\n"}, "src/ops/b.cc:2:"),
    ("check_names", "a family in an identifier", {"cmake/x.cmake": "set(OLMOE_TOP 8)\n"}, "cmake/x.cmake:1:"),
    ("check_types", "a declaration", {"src/ops/b.h": IN_N.format("struct B;"), "src/ops/c.h": IN_N.format("struct B {};")}, None),
    ("check_types", "unnamed", {"src/ops/b.cc": UNNAMED, "src/ops/c.cc": UNNAMED}, None),
    (
        "check_types",
        "a type defined twice",
        {"src/ops/b.h": IN_N.format("struct B {};"), "src/ops/c.cc": IN_N.format("class B : A {")},
        "src/ops/c.cc:2: n::B is also defined at src/ops/b.h:2",
    ),
    ("check_paths", "a relative path", {"docs/a.md": "see src/base/ and ~/work/x and ./tmp/x\n"}, None),
    ("check_paths", "a machine path", {"docs/a.md": "see /home/someone/x\n"}, "docs/a.md:1: machine path"),
    ("check_paths", "a registry host", {"a.sh": "\npip -i https://pypi.org/simple\n"}, "a.sh:2: registry host"),
    ("check_paths", "a large file", {"tests/big.bin": "x" * 3_000_001}, "tests/big.bin:1: 3000001 bytes"),
    ("check_paths", "the embedded model", {"models/storyteller/m.bin": "x" * 3_000_001}, None),
]


def run(check, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"cmake/floors.cmake": FLOORS, **GOOD, **files}.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = [sys.executable, str(HERE / f"{check}.py"), "--root", folder]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def main():
    failures = 0
    for check, what, files, expected in CASES:
        done = run(check, files)
        output = done.stdout + done.stderr
        passed = done.returncode == 0 if expected is None else done.returncode == 1 and expected in done.stdout
        if not passed:
            failures += 1
            print(f"{check}, {what}: expected {expected or 'a pass'}, got exit {done.returncode}:\n{output}")
    print(f"self test: {len(CASES) - failures} of {len(CASES)} cases as expected", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

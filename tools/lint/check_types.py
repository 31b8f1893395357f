"""Fails where two files define a type of one name in one namespace.

The linker keeps one of two such types' functions, whichever comes first, and the program breaks without
a word. Types in unnamed namespaces and in tests, each a program of its own, may share names.
"""

import collections
import re
import sys

import lint_files

TYPE = re.compile(
    r"^(?:struct|class|enum class|enum|union)\s+(?:alignas\(\S+\)\s+)?(\w+)(?:\s+final)?\s*(?:{|:(?!:).*{|:(?!:)[^;]*$)"
)
OPEN = re.compile(r"^namespace\s*([\w:]*)\s*{")
CLOSE = re.compile(r"^}\s*// namespace")
# One of these files is compiled into a translation unit, in the namespace of the instruction tier.
ALTERNATIVES = re.compile(r"src/ops/common/cpu/vec_\w+\.h")


def defined_types(text):
    """(line number, qualified name) of each type at namespace level, unnamed namespaces left out."""
    namespaces = []
    for number, line in enumerate(text.splitlines(), start=1):
        if opened := OPEN.match(line):
            namespaces.append(opened.group(1))
        elif CLOSE.match(line):
            namespaces and namespaces.pop()
        elif (found := TYPE.match(line)) and "" not in namespaces:
            yield number, "::".join([*namespaces, found.group(1)])


def check(root):
    places = collections.defaultdict(list)
    for path in lint_files.tree_files(root):
        name = path.as_posix()
        if not name.startswith("src/") or path.suffix not in (".h", ".cc", ".cu", ".cuh"):
            continue
        if name.endswith("_test.cc") or ALTERNATIVES.fullmatch(name):
            continue
        for number, qualified in defined_types((root / path).read_text()):
            places[qualified].append(f"{path}:{number}")
    return [
        f"{where}: {qualified} is also defined at {others[0]}"
        for qualified, others in places.items()
        for where in others[1:]
    ]


if __name__ == "__main__":
    sys.exit(lint_files.report("types", check(lint_files.parse_root(__doc__))))

"""Fails on a model family's name in code outside src/arch/: families are data there and nowhere else.

Comments count: what a comment explains by a family's name is better said by the property that matters.
Unit tests and benchmarks may name the models whose configs and shapes they use.
"""

import re
import sys

import lint_files

FAMILY = re.compile(r"qwen|mixtral|olmoe|dbrx|deepseek|llada|llama", re.IGNORECASE)
SCANNED = ("src/", "cmake/", "CMakeLists.txt", "Makefile")
EXEMPT = ("src/arch/",)
EXEMPT_ENDS = ("_test.cc", "_bench.cc", ".md")


def check(root):
    violations = []
    for path in lint_files.tree_files(root):
        name = path.as_posix()
        if not name.startswith(SCANNED) or name.startswith(EXEMPT) or name.endswith(EXEMPT_ENDS):
            continue
        for number, line in enumerate((root / path).read_text().splitlines(), start=1):
            match = FAMILY.search(line)
            if match:
                violations.append(f"{path}:{number}: family name '{match.group(0)}' outside src/arch/")
    return violations


if __name__ == "__main__":
    sys.exit(lint_files.report("names", check(lint_files.parse_root(__doc__))))

"""Fails on a header that does not compile alone: each one is the whole of a translation unit, twice, so
that a missing include and a missing #pragma once both show.

Results are kept under build/lint/ by the content of the header and of every project header it reaches.
"""

import concurrent.futures
import hashlib
import os
import re
import subprocess
import sys

import lint_files

COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-Wno-missing-field-initializers"]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def content_key(root, name, texts):
    """A hash over the header `name` (a path from src/) and all project headers that it reaches."""
    reached, todo = {}, [name]
    while todo:
        current = todo.pop()
        path = root / "src" / current
        if current in reached or not path.is_file():
            continue
        if current not in texts:
            texts[current] = path.read_text()
        reached[current] = texts[current]
        todo += INCLUDE.findall(texts[current])
    digest = hashlib.sha256(" ".join([COMPILER, *FLAGS]).encode())
    for current in sorted(reached):
        digest.update(f"\0{current}\0{reached[current]}".encode())
    return digest.hexdigest()


def compile_alone(root, name):
    """Returns the compiler's messages, empty when the header compiles."""
    unit = f'#include "{name}"\n#include "{name}"\n'
    command = [COMPILER, *FLAGS, "-x", "c++", "-I", str(root / "src"), "-"]
    done = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit {done.returncode}"


def check(root):
    passed_dir = root / "build/lint/headers"
    passed_dir.mkdir(parents=True, exist_ok=True)
    headers = [
        path.relative_to("src").as_posix()
        for path in lint_files.tree_files(root, "src")
        if path.suffix == ".h"
    ]
    texts = {}
    keys = {name: content_key(root, name, texts) for name in headers}
    todo = [name for name in headers if not (passed_dir / keys[name]).exists()]
    violations = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, message in zip(todo, pool.map(lambda name: compile_alone(root, name), todo)):
            if message:
                violations.append(f"src/{name}:1: does not compile alone:\n{message}")
            else:
                (passed_dir / keys[name]).touch()
    return violations


if __name__ == "__main__":
    sys.exit(lint_files.report("headers", check(lint_files.parse_root(__doc__))))

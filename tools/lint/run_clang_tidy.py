"""Runs clang-tidy-16 on changed .cc files with the release build's compile commands, all cores.

A file that passed is not looked at again until it, a project header or .clang-tidy changes.
"""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import changed_files
import check_headers
import lint_files

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/release"


def key(name, texts):
    """A hash over the file, what it includes of the project, and the configuration."""
    content = check_headers.content_key(ROOT, name, texts)
    return hashlib.sha256((content + (ROOT / ".clang-tidy").read_text()).encode()).hexdigest()


def tidy(path):
    # Sanitizer and linker flags aside, the build is g++'s: warnings that clang does not know are no matter.
    command = ["clang-tidy-16", "-p", str(BUILD), "--quiet", "--extra-arg=-Wno-unknown-warning-option", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return "" if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()


def main():
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    built = {Path(entry["file"]) for entry in commands}
    passed_dir = ROOT / "build/lint/tidy"
    passed_dir.mkdir(parents=True, exist_ok=True)
    texts = {}
    todo = {}
    for path in changed_files.changed_files(ROOT):
        if path.suffix == ".cc" and path.parts[0] == "src" and ROOT / path in built:
            digest = key(path.relative_to("src").as_posix(), texts)
            if not (passed_dir / digest).exists():
                todo[path] = digest
    violations = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, message in zip(todo, pool.map(tidy, todo)):
            if message:
                print(message, flush=True)
                violations.append(path)
            else:
                (passed_dir / todo[path]).touch()
    return lint_files.report(f"clang-tidy, {len(todo)} files", [f"{path}:1: see above" for path in violations])


if __name__ == "__main__":
    sys.exit(main())

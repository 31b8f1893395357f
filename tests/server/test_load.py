"""The load tests of bench/serving_load.py, short."""

import json
import subprocess
import sys

from conftest import BINARY, ROOT


def load(what, *arguments):
    command = [sys.executable, ROOT / "bench/serving_load.py", what, "--sluice", BINARY, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    return json.loads(done.stdout)


def test_clients_that_vanish_leave_nothing():
    result = load("disconnects", "--requests", 600)
    # How long a stream stalls is measured by the whole run, as all that is measured under overload.
    assert all(held for name, held in result["held"].items() if name != "stall"), result
    assert result["longest_stall_ms"] > 0
    assert len(result["phases"]) == 6 and sum(result["phases"].values()) == 600


def test_overload_is_refused_and_nothing_else():
    result = load("overload", "--seconds", 4, "--turns", 1, "--output-len", 60)
    # How fast is measured by the whole run, on a machine with nothing else to do.
    held = result["held"]
    assert held["only_refusals"] and held["nothing_left"], result
    assert result["refused"] > result["completed"] > 0


def test_memory_does_not_grow_with_requests():
    result = load("memory", "--requests", 2000)
    assert result["held"] == dict.fromkeys(result["held"], True), result

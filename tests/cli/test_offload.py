"""Experts that do not fit: budgets, profiles and the offload benchmark, as the command line gives them."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
PROMPT = ["-p", "Once upon a time", "--max-tokens", "8", "--temperature", "0", "--json"]


def sluice(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def text(*arguments):
    return json.loads(sluice("run", "--device", "cpu", *PROMPT, *arguments))["text"]


def smallest(*arguments, flag="--vram-budget"):
    """The budget that an error names as the smallest that works."""
    said = sluice("run", "--device", "cpu", *PROMPT, *arguments, code=1)
    return int(re.search(rf"smallest that works .*?{flag} (\d+) ", said).group(1))


@pytest.mark.parametrize("more", [[], ["--dtype", "float32"], ["--max-model-len", "256"]])
def test_the_smallest_budget_works_and_not_a_byte_less(more):
    least = smallest("--vram-budget", "1MB", *more)
    assert text("--vram-budget", least, *more) == text(*more)
    assert smallest("--vram-budget", least - 1, *more) == least


def test_the_smallest_host_budget_works_and_not_a_byte_less():
    slots = ["--expert-slots", 12]
    least = smallest(*slots, "--ram-budget", "1KB", flag="--ram-budget")
    assert text(*slots, "--ram-budget", least) == text()
    assert smallest(*slots, "--ram-budget", least - 1, flag="--ram-budget") == least


def test_a_resident_model_has_a_smallest_budget_too():
    flags = ["--offload-policy", "resident", "--vram-budget"]
    least = smallest(*flags, "100MB")
    assert text(*flags, least) == text()
    assert smallest(*flags, least - 1) == least


def test_doctor_says_the_slots_of_a_budget():
    def doctor(*arguments):
        report = json.loads(sluice("doctor", "--device", "cpu", "--json", *arguments))
        return report["model"]["memory"]["bfloat16"]

    least = smallest("--vram-budget", "1MB")
    slot = 3 * 256 * 64 * 2
    needs = doctor("--vram-budget", least + 10 * slot, "--max-num-seqs", 1)
    assert needs["fits"] and needs["expert_slots"] == 12 and needs["experts"] == 96
    assert needs["total"] == least + 10 * slot
    needs = doctor("--vram-budget", least + 10 * slot, "--max-num-seqs", 1, "--ram-budget", "5MB")
    assert needs["host_expert_slots"] == 5_000_000 // slot
    assert needs["experts_on_host"] == 5_000_000 // slot * slot
    assert needs["total"] == least + 10 * slot + needs["experts_on_host"]


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--expert-slots", "1"], "while the next arrives"),
        (["--expert-slots", "4", "--vram-budget", "1GB"], "give one of them"),
        (["--ram-budget", "1GB"], "give --vram-budget or --expert-slots too"),
        (["--link-bandwidth", "1GB"], "give --vram-budget or --expert-slots too"),
        (["--expert-slots", "4", "--offload-policy", "resident"], "leave --expert-slots out"),
        (["--expert-slots", "4", "--cpu-experts"], "beside a GPU"),
        (["--vram-budget", "many"], "not a size of memory"),
        (["--offload-policy", "hope"], "--offload-policy"),
    ],
)
def test_flags_that_contradict_are_refused(flags, word):
    assert word in sluice("run", "--device", "cpu", "-p", "x", *flags, code=2)


def test_a_dense_model_has_nothing_to_offload():
    dense = ROOT / "tests/golden/llama_dense"
    said = sluice("bench", "latency", dense, "--device", "cpu", "--vram-budget", "1GB", code=2)
    assert "has no experts" in said

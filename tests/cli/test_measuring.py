"""Benchmarks of a model's parts, as the command line gives them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))


def sluice(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def report(*arguments):
    return json.loads(sluice(*arguments, "--device", "cpu", "--json"))


def check_rows(result):
    assert result["device"] == "cpu" and result["threads"] >= 1 and result["random_weights"] is True
    bandwidth, rate = result["read_bandwidth_bytes_per_s"], result["flops_per_s"]
    for row in result["rows"]:
        if "left_out" in row:
            continue
        floor = max(row["bytes"] / bandwidth, row["flops"] / rate)
        assert row["floor_us"] == pytest.approx(1e6 * floor)
        assert row["bound"] == ("memory" if row["bytes"] / bandwidth == floor else "compute")
        assert row["share_of_floor"] == pytest.approx(row["floor_us"] / row["us"])
        samples = sorted(row["samples_s"])
        assert samples[0] <= 1e-6 * row["us"] * 1.0001 and 1e-6 * row["us"] <= samples[-1] * 1.0001
    return result["rows"]


def test_the_router_alone_and_with_its_product():
    rows = check_rows(report("bench", "router", "--tokens", 1, 16))
    assert [(row["part"], row["tokens"]) for row in rows] == [
        ("choice", 1), ("norm+product+choice", 1), ("choice", 16), ("norm+product+choice", 16)]
    assert all((row["experts"], row["top_k"]) == (16, 4) for row in rows)


def test_kernels_say_which_experts_they_read():
    rows = check_rows(report("bench", "kernels", "--tokens", 8))
    experts = {row["routing"]: row["distinct_experts"] for row in rows if row["part"] == "experts"}
    assert experts["one"] == 4 < experts["zipf"] < experts["uniform"] <= 16
    parts = [row["part"] for row in rows if row["part"] != "experts"]
    assert parts == ["norm", "qkv", "o", "router", "lm_head"]


def test_attention_leaves_out_what_the_model_cannot_see():
    rows = check_rows(report("bench", "attention", "--decode", "2x100", "1x4096", "--prefill", 64))
    assert [row["part"] for row in rows] == ["decode", "decode", "prefill"]
    assert ["left_out" in row for row in rows] == [False, True, False]
    assert "2048 positions" in rows[1]["left_out"]
    table = sluice("bench", "attention", "--decode", "1x4096", "--prefill", 64, "--device", "cpu")
    assert "left out: the model's context has 2048 positions" in table
    assert "sequences=1 queries=64 context=64" in table


@pytest.mark.parametrize("size", ["8", "8x", "x8", "0x8", "8x8x8", "-1x8", "8x9999999"])
def test_a_size_of_decoding_is_checked(size):
    assert "expected SEQUENCESxCONTEXT" in sluice("bench", "attention", f"--decode={size}", code=2)


def test_a_dense_model_has_no_router():
    dense = ROOT / "tests/golden/llama_dense"
    assert "no router" in sluice("bench", "router", dense, "--device", "cpu", code=1)
    rows = check_rows(report("bench", "kernels", dense, "--tokens", 2))
    assert {"gate_up", "down"} <= {row["part"] for row in rows}

"""Benchmarks of a model's parts, and timelines of steps, as the command line gives them."""

import json
import os
import re
import signal
import subprocess
import urllib.request
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


def spans_of(path):
    """The spans of a timeline by the name of their track, each checked to lie within one another or apart."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    tracks = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            tracks[names[event["tid"]]].append(event)
    rounding = 0.002  # microseconds
    for spans in tracks.values():
        spans.sort(key=lambda span: (span["ts"], -span["dur"]))
        open_ends = []
        for span in spans:
            end = span["ts"] + span["dur"]
            while open_ends and open_ends[-1] <= span["ts"] + rounding:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + rounding, span
            open_ends.append(end)
    return tracks


def inside(outer, spans):
    end = outer["ts"] + outer["dur"]
    return [span["name"] for span in spans
            if span is not outer and outer["ts"] <= span["ts"] and span["ts"] + span["dur"] <= end + 0.002]


def test_a_timeline_has_every_step_and_its_parts(tmp_path):
    path = tmp_path / "run.json"
    answer = json.loads(sluice("run", "-p", "Once upon a time", "--max-tokens", 12, "--ignore-eos",
                               "--device", "cpu", "--timeline", path, "--json"))
    assert answer["completion_tokens"] == 12
    tracks = spans_of(path)
    engine = tracks["engine"]
    steps = [span for span in engine if span["name"] == "step"]
    numbers = [span["args"]["step"] for span in steps]
    assert numbers == list(range(numbers[0], numbers[0] + 12))
    assert [span["args"]["tokens"] for span in steps] == [answer["prompt_tokens"]] + [1] * 11
    assert all(span["args"]["sequences"] == 1 for span in steps)
    for step in steps:
        parts = inside(step, engine)
        assert parts == ["prepare", "layers", "logits", "queue sampling", "sample"]
    for name in ("schedule", "commit"):
        assert [span["args"]["step"] for span in engine if span["name"] == name] == numbers
    texts = [span for spans in tracks.values() for span in spans if span["name"] == "detokenize"]
    assert sum(span["args"]["tokens"] for span in texts) == 12


def test_a_timeline_has_every_copy_of_an_expert(tmp_path):
    path = tmp_path / "run.json"
    sluice("run", "-p", "Once upon a time", "--max-tokens", 6, "--ignore-eos", "--device", "cpu", "--timeline", path,
           "--expert-slots", 12, "--ram-budget", "1GB", "--link-bandwidth", "1GB")
    tracks = spans_of(path)
    copies = tracks["link"]
    assert {span["name"] for span in copies} == {"demand", "prefetch"}
    assert {span["args"]["layer"] for span in copies} == set(range(6))
    assert {span["args"]["expert"] for span in copies} == set(range(16))
    slot_us = 3 * 256 * 64 * 2 / 1e3
    assert all(span["dur"] >= slot_us * 0.999 for span in copies)
    # The first one is behind the first router, which found every slot empty.
    first_cut = min(span["ts"] for span in tracks["engine"] if span["name"] == "router cut")
    assert copies[0]["ts"] >= first_cut and copies[0]["args"]["layer"] == 0


def test_a_benchmarks_timeline_tells_its_steps_apart(tmp_path):
    path = tmp_path / "bench.json"
    sluice("bench", "latency", "--batch-size", 3, "--input-len", 5, "--output-len", 4, "--repeats", 1,
           "--device", "cpu", "--timeline", path)
    (spans,) = spans_of(path).values()
    steps = [span["args"] for span in spans if span["name"] == "step"]
    assert [step["step"] for step in steps] == list(range(12))  # counting, warming up, timed
    assert [step["tokens"] for step in steps] == [15, 3, 3, 3] * 3
    assert all(step["sequences"] == 3 for step in steps)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_servers_timeline_is_whole_when_it_ends(tmp_path, how):
    path = tmp_path / "serve.json"
    server = subprocess.Popen([BINARY, "serve", "--port", "0", "--device", "cpu", "--timeline", path],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = next(match[1] for line in server.stdout if (match := re.search(r"listening on \S+:(\d+)", line)))
        body = {"model": "storyteller", "prompt": "Once", "max_tokens": 8, "stream": True, "ignore_eos": True}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                       {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert b"[DONE]" in answer.read()
        server.send_signal(how)
        code = server.wait(timeout=60)
    finally:
        server.kill()
        server.stdout.close()
    tracks = spans_of(path)
    if how == signal.SIGKILL:
        assert tracks == {}
        return
    assert code == 0
    assert sum(span["name"] == "step" for span in tracks["engine"]) == 8
    names = {span["name"] for track, spans in tracks.items() if track != "engine" for span in spans}
    assert names == {"detokenize", "stream"}


def test_a_timeline_that_cannot_be_written_is_said_at_once(tmp_path):
    error = sluice("run", "-p", "x", "--timeline", tmp_path / "absent" / "t.json", code=1)
    assert "the timeline cannot be written there" in error

"""`sluice bench serve` against a server of its own kind."""

import json
import subprocess

import pytest

from conftest import BINARY, ROOT, serving

SMALL = ["--random-input-len", 30, "--random-output-len", 12, "--ignore-eos"]


def bench(address, *arguments, code=0):
    done = subprocess.run([BINARY, "bench", "serve", "--base-url", address.url, *map(str, arguments)],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stderr if code == 2 else done.stdout


def report(address, *arguments, code=0):
    return json.loads(bench(address, *arguments, "--json", code=code))


def test_a_load_of_thirty_two_requests_eight_at_a_time(address, model):
    result = report(address, "--requests", 32, "--concurrency", 8, *SMALL)
    assert result["model_id"] == model and result["num_prompts"] == 32 and result["request_rate"] == "inf"
    assert result["completed"] == 32 and result["failed"] == 0 and result["failures"] == []
    assert result["total_input_tokens"] == 32 * 30 and result["total_output_tokens"] == 32 * 12
    assert result["max_concurrent_requests"] == result["max_concurrency"] == 8
    assert result["output_throughput"] * result["duration"] == pytest.approx(32 * 12)
    for metric in ("ttft", "tpot", "itl", "e2el"):
        assert 0 < result[f"median_{metric}_ms"] <= result[f"p99_{metric}_ms"] <= 1e3 * result["duration"]
    assert len(result["requests"]) == 32
    assert all(0 < one["ttft_ms"] <= one["e2el_ms"] for one in result["requests"])


def test_the_block(address):
    block = bench(address, "--num-prompts", 4, "--num-warmups", 2, "--request-rate", 50, "--burstiness", 0.5, *SMALL,
                  "--percentile-metrics", "ttft,e2el", "--metric-percentiles", "50,99.9")
    lines = block.splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============" and lines[-1] == "=" * 50
    names = [line.split(":")[0] for line in lines[1:-1]]
    assert names == [
        "Successful requests", "Failed requests", "Request rate configured (RPS)", "Benchmark duration (s)",
        "Total input tokens", "Total generated tokens", "Request throughput (req/s)",
        "Output token throughput (tok/s)", "Peak output token throughput (tok/s)", "Peak concurrent requests",
        "Total token throughput (tok/s)", "---------------Time to First Token----------------", "Mean TTFT (ms)",
        "Median TTFT (ms)", "P50 TTFT (ms)", "P99.9 TTFT (ms)",
        "----------------End-to-end Latency----------------", "Mean E2EL (ms)", "Median E2EL (ms)",
        "P50 E2EL (ms)", "P99.9 E2EL (ms)"]
    assert "Total generated tokens:                  48" in lines


def test_arrivals_take_the_time_that_the_rate_says(address):
    result = report(address, "--num-prompts", 20, "--request-rate", 20, "--seed", 3, *SMALL)
    sent = [one["sent_s"] for one in result["requests"]]
    assert sent == sorted(sent) and 0.999 <= sent[-1] < 3
    again = report(address, "--num-prompts", 20, "--request-rate", 20, "--seed", 3, *SMALL)
    assert [one["sent_s"] for one in again["requests"]] == pytest.approx(sent, abs=1)


def test_conversations_of_a_dataset_as_chats(address, tmp_path):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([
        {"id": str(i), "conversations": [{"from": "human", "value": f"Tell me story number {i}."},
                                         {"from": "gpt", "value": "Once upon a time."}]} for i in range(6)]))
    asked = ["--dataset-path", path, "--endpoint", "/v1/chat/completions"]
    result = report(address, "--num-prompts", 6, *asked, "--sharegpt-output-len", 5, "--ignore-eos")
    assert result["completed"] == 6 and result["total_output_tokens"] == 30 and result["total_input_tokens"] > 30
    assert "--tokenizer" in bench(address, "--num-prompts", 6, *asked, code=2)
    assert "6 usable conversations" in bench(address, "--num-prompts", 7, *asked, "--sharegpt-output-len", 5, code=2)


def test_random_chats_are_text_of_the_tokenizer(address):
    result = report(address, "--num-prompts", 3, "--endpoint", "/v1/chat/completions", "--tokenizer",
                    ROOT / "models/storyteller", *SMALL)
    assert result["completed"] == 3 and result["total_output_tokens"] == 36
    assert result["total_input_tokens"] > 3 * 15


def test_failures_are_counted_and_named(address):
    result = report(address, "--num-prompts", 3, "--random-input-len", 5000, code=1)
    assert result["completed"] == 0 and result["failed"] == 3
    assert [kind["count"] for kind in result["failures"]] == [3]
    assert "HTTP 400: This model's maximum context length" in result["failures"][0]["error"]
    text = bench(address, "--num-prompts", 3, "--random-input-len", 5000, code=1)
    assert "Failed requests:                         3" in text and "3 failed, median after" in text


def test_a_server_with_a_key():
    with serving("--api-key", "secret") as (address, _):
        bench(address, "--num-prompts", 1, *SMALL, code=1)
        assert report(address, "--num-prompts", 1, *SMALL, "--api-key", "secret")["completed"] == 1


@pytest.mark.parametrize(("flags", "said"), [
    (["--request-rate", 0], "--request-rate"),
    (["--burstiness", 0], "--burstiness"),
    (["--random-range-ratio", 1], "--random-range-ratio"),
    (["--endpoint", "/v1/models"], "--endpoint"),
    (["--metric-percentiles", "50,101"], "--metric-percentiles"),
    (["--percentile-metrics", "ttft,speed"], "--percentile-metrics"),
    (["--endpoint", "/v1/chat/completions"], "--tokenizer"),
    (["--dataset-path", "not-there.json", "--sharegpt-output-len", 3], "not-there.json"),
    (["--base-url", "127.0.0.1:8000"], "127.0.0.1:8000"),
])
def test_flags_that_are_refused(address, flags, said):
    done = subprocess.run([BINARY, "bench", "serve", "--base-url", address.url, *map(str, flags)],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2) and said in done.stderr, done.stderr
    assert done.stdout == ""

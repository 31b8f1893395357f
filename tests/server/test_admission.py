"""What a server takes, what it refuses, and what it says of itself: the queue's bounds, logs, steps."""

import json
import re
import time

import openai
import pytest
import raw_http

from conftest import serving

LONG = {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}


def start(address, **more):
    """A connection on which a long answer is on its way; has its head when this returns."""
    connection = raw_http.connect(address)
    connection.sendall(raw_http.encode("POST", "/v1/completions", json.dumps({**LONG, **more}).encode()))
    assert connection.recv(1) == b"H"
    return connection


def test_a_full_queue_says_429_and_when_to_come_back():
    with serving("--max-num-seqs", 2, "--max-num-queued-reqs", 3) as (address, _):
        running = [start(address) for _ in range(2)]
        raw_http.await_metric(address, "vllm:num_requests_running", 2)
        waiting = [start(address) for _ in range(3)]
        raw_http.await_metric(address, "vllm:num_requests_waiting", 3)
        refused = raw_http.request(address, "POST", "/v1/completions", b"whatever it is")
        assert refused.status == 429 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["connection"] == "keep-alive"
        with openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError, match="3 requests wait"):
                client.completions.create(model="storyteller", prompt="x")
        assert raw_http.metric(address, "sluice:requests_refused_total") == 2
        assert raw_http.request(address, "GET", "/health").status == 200
        waiting.pop().close()
        raw_http.await_metric(address, "vllm:num_requests_waiting", 2)
        waiting.append(start(address))
        for connection in running + waiting:
            connection.close()
        raw_http.await_metric(address, "vllm:num_requests_running", 0)
        raw_http.await_metric(address, "sluice:waiting_prompt_tokens", 0)
        assert raw_http.request(address, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 200


def test_prompts_that_wait_are_bounded_in_tokens():
    with serving("--max-num-seqs", 1, "--max-num-queued-tokens", 50) as (address, _):
        running = start(address)
        raw_http.await_metric(address, "vllm:num_requests_running", 1)
        raw_http.await_metric(address, "sluice:waiting_prompt_tokens", 0)
        waiting = start(address, prompt=[300] * 400)  # longer than the bound, but the first
        too_much = raw_http.request(address, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
        assert too_much.status == 429 and "prompts of 400 tokens" in too_much.json()["error"]["message"]
        for connection in (running, waiting):
            connection.close()
        raw_http.await_metric(address, "sluice:waiting_prompt_tokens", 0)


def read_json_log(log):
    return [json.loads(line) for line in list(log) if line.startswith("{")]


def test_one_line_of_json_for_each_request():
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with serving("--log-format", "json", "--enable-log-requests") as (address, log):
        asked = {"prompt": "The cat \"sat\"", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
        answer = raw_http.request(address, "POST", "/v1/completions", asked, [
            "X-Request-Id: mine-1", f"traceparent: 00-{trace}-00f067aa0ba902b7-01"])
        assert answer.headers["x-request-id"] == "mine-1"
        made = raw_http.request(address, "POST", "/v1/completions", {"prompt": 7}).headers["x-request-id"]
        start(address).close()
        deadline = time.monotonic() + 10
        while len(lines := [line for line in read_json_log(log) if line["message"] == "request"]) < 3:
            assert time.monotonic() < deadline, log
            time.sleep(0.02)
    whole, malformed, gone = lines
    assert whole["request_id"] == "mine-1" and whole["trace_id"] == trace and whole["status"] == 200
    assert whole["completion_tokens"] == 5 and whole["prompt_tokens"] > 2 and whole["finish_reason"] == "length"
    assert 0 < whole["ttft_ms"] <= whole["latency_ms"] and whole["path"] == "/v1/completions"
    assert whole["prompt"].endswith('The cat "sat"') and whole["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", whole["time"])
    assert malformed["status"] == 400 and malformed["request_id"] == made and "prompt" in malformed["error"]
    assert "trace_id" not in malformed and malformed["prompt_tokens"] == 0
    assert gone["status"] == 499 and gone["finish_reason"] == "abort"
    # Every other line is JSON as well, but for the welcome on standard output.
    assert any(line["message"].startswith("received SIGTERM") for line in read_json_log(log))


def test_what_was_cached_of_a_prompt_is_logged():
    with serving("--log-format", "json") as (address, log):
        asked = {"prompt": [300] * 100, "max_tokens": 1}
        for _ in range(2):
            usage = raw_http.request(address, "POST", "/v1/completions", asked).json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
    logged = [line["cached_tokens"] for line in read_json_log(log) if line["message"] == "request"]
    assert cached > 0 and logged == [0, cached]


def test_prompts_are_not_logged_unless_asked():
    with serving() as (address, log):
        raw_http.request(address, "POST", "/v1/completions", {"prompt": "a secret", "max_tokens": 1})
        deadline = time.monotonic() + 10
        while not any("/v1/completions 200" in line for line in list(log)):
            assert time.monotonic() < deadline, log
            time.sleep(0.02)
    assert not any("secret" in line for line in log)


def test_the_last_steps_are_shown(address):
    asked = {"prompt": [300] * 40, "max_tokens": 6, "ignore_eos": True}
    assert raw_http.request(address, "POST", "/v1/completions", asked).status == 200
    raw_http.await_metric(address, "vllm:num_requests_running", 0)
    steps = raw_http.request(address, "GET", "/debug/steps").json()["steps"]
    assert 0 < len(steps) <= 256
    numbers = [step["step"] for step in steps]
    assert numbers == sorted(numbers)
    assert steps[-1]["decode_rows"] == steps[-1]["rows"] == 1 and steps[-1]["collect_us"] > 0
    prefill = next(step for step in reversed(steps) if step["prefill_rows"])
    assert prefill["prefill_rows"] > 2 and abs(prefill["planned_unix_s"] - time.time()) < 600


def test_the_process_is_among_the_metrics(address):
    assert raw_http.metric(address, "process_resident_memory_bytes") > 1e6
    assert raw_http.metric(address, "process_open_fds") > 5
    assert raw_http.metric(address, "sluice:http_requests_in_progress") == 1  # this one
    with raw_http.connect(address):
        raw_http.await_metric(address, "sluice:http_connections", 2)

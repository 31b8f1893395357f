"""The model in a process of its own: it dies, the server tells and starts it again."""

import os
import re
import signal
import subprocess
import time

import openai
import pytest
import raw_http

from conftest import BINARY, launch, serving, wait_for_address

GREEDY = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "logprobs": 2}
STARTED = re.compile(r"the worker is process (\d+)")


def workers(log):
    """The worker processes that the server has started so far."""
    return [int(found[1]) for line in list(log) if (found := STARTED.search(line))]


def await_true(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
    return value


def exists(process):
    return os.path.exists(f"/proc/{process}")


def health(address):
    return raw_http.request(address, "GET", "/health")


def complete(address, **more):
    return raw_http.request(address, "POST", "/v1/completions", {**GREEDY, **more})


@pytest.fixture(scope="module")
def apart():
    with serving("--worker-process", "on") as (address, log):
        yield address, log


def test_answers_are_those_of_one_process(apart, address):
    for asked in ({}, {"temperature": 1, "seed": 7, "n": 3}, {"echo": True, "repetition_penalty": 1.2}):
        there, here = complete(apart[0], **asked).json(), complete(address, **asked).json()
        assert there["choices"] == here["choices"], asked


def test_memory_counts_the_worker(apart):
    address, log = apart
    asked = {"prompt": "x", "max_tokens": 1}
    counted = raw_http.request(address, "POST", "/v1/generate", asked).json()["memory"]["resident_bytes"]
    with open(f"/proc/{workers(log)[-1]}/status", encoding="ascii") as file:
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) * 1024
    assert counted > resident


def test_a_killed_worker_fails_what_ran_and_is_started_again(apart):
    address, log = apart
    before = complete(address).json()["choices"]
    with openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        streams = [client.completions.create(model="storyteller", prompt="Once", max_tokens=1900, stream=True,
                                             extra_body={"ignore_eos": True}) for _ in range(3)]
        for stream in streams:
            next(iter(stream))
        started = len(workers(log))
        os.kill(workers(log)[-1], signal.SIGKILL)
        for stream in streams:
            with pytest.raises(openai.APIError, match="ended by signal 9"):
                list(stream)
    await_true(lambda: health(address).status == 200)
    assert len(workers(log)) == started + 1
    assert complete(address).json()["choices"] == before
    raw_http.await_metric(address, "vllm:kv_cache_usage_perc", 0)
    raw_http.await_metric(address, "sluice:worker_restarts_total", started)


def test_an_idle_worker_that_is_killed_is_missed_by_no_request(apart):
    address, log = apart
    started = len(workers(log))
    os.kill(workers(log)[-1], signal.SIGKILL)
    await_true(lambda: len(workers(log)) > started)
    await_true(lambda: health(address).status == 200)
    assert complete(address).status == 200


def test_what_comes_meanwhile_is_told_to_try_again():
    # Weights that take a while to make, so that there is a meanwhile.
    overrides = '{"num_hidden_layers": 400}'
    with serving("--worker-process", "on", "--load-format", "dummy", "--hf-overrides", overrides,
                 "--max-num-seqs", 1) as (address, log):
        os.kill(workers(log)[-1], signal.SIGKILL)
        refused = await_true(lambda: (answer := health(address)).status == 503 and answer)
        assert "ended by signal 9" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        asked = complete(address)
        assert asked.status == 503 and int(asked.headers["retry-after"]) > 0
        assert raw_http.request(address, "GET", "/v1/models").status == 200
        # Loading is interrupted as well: the next try follows.
        started = await_true(lambda: len(workers(log)) == 2 and workers(log))
        os.kill(started[-1], signal.SIGKILL)
        await_true(lambda: health(address).status == 200)
        assert len(workers(log)) == 3
        # OpenAI's client waits as it is told.
        os.kill(workers(log)[-1], signal.SIGKILL)
        await_true(lambda: health(address).status == 503)
        with openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=5, timeout=60) as client:
            assert client.completions.create(model="storyteller", prompt="x", max_tokens=2).choices


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_worker_ends_with_the_server(how):
    log = []
    server = launch("--worker-process", "on")
    wait_for_address(server, log)
    worker = workers(log)[-1]
    assert exists(worker)
    server.send_signal(how)
    assert server.wait(timeout=30) == (0 if how == signal.SIGTERM else -how)
    await_true(lambda: not exists(worker), seconds=10)


def test_a_worker_killed_while_it_loads_ends_the_start():
    server = launch("--worker-process", "on", "--load-format", "dummy",
                    "--hf-overrides", '{"num_hidden_layers": 400}')
    for line in server.stdout:
        if found := STARTED.search(line):
            os.kill(int(found[1]), signal.SIGKILL)
            break
    rest = server.stdout.read()
    assert server.wait(timeout=30) == 1
    assert "before it had loaded the model" in rest and "signal 9" in rest


def refusal(*arguments):
    done = subprocess.run([BINARY, "serve", "--port", "0", *arguments], capture_output=True, text=True,
                          timeout=60)
    said = [line for line in done.stderr.splitlines() if line.startswith("sluice: ")]
    return done.returncode, said


@pytest.mark.parametrize("arguments", [
    ("--kv-cache-memory", "100B"),
    ("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 4000000}'),
    ("--max-model-len", "100000000"),
])
def test_what_cannot_be_loaded_is_refused_as_in_one_process(arguments):
    apart = refusal("--worker-process", "on", *arguments)
    assert apart == refusal("--worker-process", "off", *arguments)
    assert apart[0] in (1, 2) and len(apart[1]) == 1, apart


def test_a_router_trace_needs_one_process(tmp_path):
    trace = str(tmp_path / "trace.bin")
    code, said = refusal("--worker-process", "on", "--router-trace", trace)
    assert code == 2 and "--router-trace" in said[0] and not os.path.exists(trace)

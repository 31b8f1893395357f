"""How a server starts and ends: what it says meanwhile, and that no stream is lost."""

import json
import os
import re
import signal
import subprocess
import threading
import time

import raw_http

from conftest import BINARY, launch, wait_for_address

ASKED = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True, "stream": True}


def begin(address, **more):
    """Sends a request for a stream; returns its connection and file once the head has come."""
    connection = raw_http.connect(address)
    connection.sendall(raw_http.encode("POST", "/v1/completions", json.dumps({**ASKED, **more}).encode()))
    return connection, connection.makefile("rb")


def await_draining(address):
    deadline = time.monotonic() + 10
    while (answer := raw_http.request(address, "GET", "/health")).status == 200:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return answer


def test_a_signal_lets_every_accepted_stream_finish():
    process = launch("--max-num-seqs", 4)
    address = wait_for_address(process, [])
    streams = [begin(address, max_tokens=200) for _ in range(12)]  # most of them wait
    first = [file.readline() for _, file in streams]
    assert all(line.startswith(b"HTTP/1.1 200") for line in first)
    process.send_signal(signal.SIGTERM)
    health = await_draining(address)
    assert health.status == 503 and "draining" in health.json()["error"]["message"]
    refused = raw_http.request(address, "POST", "/v1/completions", {"prompt": "x"})
    assert refused.status == 503 and refused.headers["connection"] == "close"
    for (connection, file), line in zip(streams, first, strict=True):
        while (field := file.readline().strip()):
            pass
        assert field == b""
        body = b""
        while (size := int(file.readline(), 16)) > 0:
            body += file.read(size)
            file.read(2)
        events = raw_http.events(raw_http.Answer(200, {}, body))
        assert events[-1]["choices"][0]["finish_reason"] == "length", line
        connection.close()
    assert process.wait(timeout=30) == 0


def test_a_load_loses_no_stream_that_was_accepted():
    process = launch("--max-num-seqs", 8)
    address = wait_for_address(process, [])
    load = subprocess.Popen(
        [BINARY, "bench", "serve", "--base-url", address.url, "--num-prompts", "400", "--request-rate", "200",
         "--random-input-len", "20", "--random-output-len", "60", "--ignore-eos", "--json"],
        stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    result = json.loads(load.communicate(timeout=120)[0])
    # What was not taken was told so, or found nobody; no answer that had begun broke off.
    assert result["completed"] > 50
    for kind in result["failures"]:
        assert kind["error"].startswith(("HTTP 503: the server is draining", "no connection: ", "no answer: ")), kind
    assert any(kind["error"].startswith("HTTP 503") for kind in result["failures"])


def test_what_takes_too_long_ends_with_an_error():
    process = launch("--shutdown-timeout", 0.3)
    address = wait_for_address(process, [])
    connection, file = begin(address, max_tokens=1900)
    with connection, file:
        assert file.readline().startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        rest = file.read()
    assert b'"type":"server_error"' in rest and b"the server is stopping" in rest
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert process.wait(timeout=30) == 0


def test_a_step_that_hangs_does_not_keep_it():
    log = []
    process = launch("--worker-process", "on", "--shutdown-timeout", 0.3)
    address = wait_for_address(process, log)
    connection, file = begin(address, max_tokens=1900)
    with connection, file:
        assert file.readline().startswith(b"HTTP/1.1 200")
        worker = int(re.search(r"the worker is process (\d+)", "".join(log))[1])
        os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 1
    assert any("a step does not end" in line for line in log)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_signal_ends_it_at_once():
    process = launch()
    address = wait_for_address(process, [])
    connection, _ = begin(address, max_tokens=1900)
    with connection:
        assert connection.recv(1) == b"H"
        process.send_signal(signal.SIGTERM)
        await_draining(address)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 128 + signal.SIGINT


def test_a_server_that_loads_says_so():
    process = launch("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 600}')
    for line in process.stdout:
        if "answers 503" in line:
            port = int(line.split(" port ")[1].split()[0])
            break
    starting = raw_http.request(raw_http.Address("127.0.0.1", port), "GET", "/health")
    assert starting.status == 503 and int(starting.headers["retry-after"]) > 0
    assert "starting" in starting.json()["error"]["message"]
    drained = threading.Thread(target=process.stdout.read, daemon=True)
    drained.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM

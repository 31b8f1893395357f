"""Connections as such: hang-ups, keep-alive, pipelining, chunked bodies."""

import contextlib
import json
import socket

import raw_http

RUNNING, KV_USAGE = "vllm:num_requests_running", "vllm:kv_cache_usage_perc"


def test_a_closed_stream_frees_everything(address, client, model):
    streams = [client.completions.create(model=model, prompt="Once", max_tokens=1500, stream=True,
                                         extra_body={"ignore_eos": True}) for _ in range(4)]
    for stream in streams:
        next(iter(stream))
    for stream in streams:
        stream.close()
    raw_http.await_metric(address, RUNNING, 0)
    raw_http.await_metric(address, KV_USAGE, 0)


def test_a_client_that_goes_before_a_whole_answer_frees_everything(address):
    before = raw_http.metric(address, "vllm:generation_tokens_total")
    with raw_http.connect(address) as connection:
        body = b'{"prompt": "Once", "n": 8, "max_tokens": 1900, "ignore_eos": true}'
        connection.sendall(raw_http.encode("POST", "/v1/completions", body))
        raw_http.await_metric(address, RUNNING, 8)
    raw_http.await_metric(address, RUNNING, 0)
    raw_http.await_metric(address, KV_USAGE, 0)
    made = raw_http.metric(address, "vllm:generation_tokens_total") - before
    assert made < 8 * 1900, "the sequences ran to their end"


def test_keep_alive_and_pipelining(address):
    with raw_http.connect(address) as connection, connection.makefile("rb") as file:
        tokenize = b'{"prompt": "x"}'
        complete = b'{"prompt": "x", "max_tokens": 3, "stream": true}'
        connection.sendall(raw_http.encode("GET", "/health") +
                           raw_http.encode("POST", "/v1/completions", complete) +
                           raw_http.encode("POST", "/tokenize", tokenize))
        assert raw_http.read_answer(file).status == 200
        assert raw_http.events(raw_http.read_answer(file))
        assert raw_http.read_answer(file).json()["count"] == 1


def test_chunked_body_and_continue(address):
    with raw_http.connect(address) as connection, connection.makefile("rb") as file:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
        assert raw_http.read_answer(file).status == 100
        for piece in (b'{"prom', b'pt": "x"}', b""):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert raw_http.read_answer(file).json()["count"] == 1


def test_head_and_options(address):
    head = raw_http.request(address, "HEAD", "/health")
    assert head.status == 200 and int(head.headers["content-length"]) > 0
    options = raw_http.request(address, "OPTIONS", "/v1/completions")
    assert options.status == 204 and "POST" in options.headers["allow"]


def test_clients_that_do_not_read_are_cut_off_and_cost_little_memory(address):
    resident = "process_resident_memory_bytes"
    body = json.dumps({"prompt": "Once", "n": 32, "max_tokens": 1900, "ignore_eos": True, "logprobs": 5,
                       "stream": True}).encode()
    asked = 4 * 32 * 1900
    before, made = raw_http.metric(address, resident), raw_http.metric(address, "vllm:generation_tokens_total")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((address.host, address.port))
            connection.sendall(raw_http.encode("POST", "/v1/completions", body))
        raw_http.await_metric(address, "vllm:num_requests_running", 64)
        raw_http.await_metric(address, "vllm:num_requests_running", 0, seconds=60)
        raw_http.await_metric(address, KV_USAGE, 0)
        made = raw_http.metric(address, "vllm:generation_tokens_total") - made
        assert made < asked / 2, "the streams ran on with nobody reading them"
        assert raw_http.metric(address, resident) - before < 100e6

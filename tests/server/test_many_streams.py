"""Many streams open at once: each ends with exactly the text that it has alone.

SLUICE_STREAMS says how many: 100, or as many as a full run wants, which takes minutes on two cores:

    SLUICE_STREAMS=1000 python -m pytest -s tests/server/test_many_streams.py
"""

import json
import os
import pathlib
import selectors
import time

import pytest

import raw_http
from conftest import serving

STREAMS = int(os.environ.get("SLUICE_STREAMS", "100"))
SECONDS = 10 + STREAMS  # for all of them together
MOST_THREADS = 16
PROMPTS = ["Once upon a time", "The wolf", "It was a dark night, and", "In the garden"]


def body(i, stream):
    """Of stream `i`: kinds of sampling and lengths that differ from its neighbours'."""
    fields = {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": 100 + i % 29, "seed": i,
              "temperature": [0, 0.8, 1.2][i % 3], "ignore_eos": True, "stream": stream}
    return json.dumps(fields).encode()


@pytest.fixture(scope="module")
def address():
    unbounded = ["--max-num-queued-reqs", 0, "--max-num-queued-tokens", 0]
    with serving(*unbounded, "--threads", min(8, len(os.sched_getaffinity(0)))) as (address, _):
        yield address


def threads_of(port):
    """How many threads the process has that listens on `port` here."""
    listening = f":{port:04X} 00000000:0000 0A"
    inode = next(line.split()[9] for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()
                 if listening in line)
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) == f"socket:[{inode}]" for file in (process / "fd").iterdir()):
                return len(list((process / "task").iterdir()))
        except OSError:  # another's, or ended
            continue
    raise AssertionError(f"no process listens on {port}")


def open_all(address):
    """Asks for every stream before the first answer is read."""
    connections = []
    for i in range(STREAMS):
        connection = raw_http.connect(address)
        connection.sendall(raw_http.encode("POST", "/v1/completions", body(i, True), ["Connection: close"]))
        connection.setblocking(False)
        connections.append(connection)
    return connections


def await_open(address):
    """Returns when every stream has been taken and none has ended."""
    deadline = time.monotonic() + 10
    while (count := sum(raw_http.metric(address, f"vllm:num_requests_{state}")
                        for state in ("waiting", "running"))) != STREAMS:
        assert time.monotonic() < deadline, f"{count} of {STREAMS} are open at once"


def read_all(connections):
    """What each connection carries to its end, read as it comes."""
    received = [bytearray() for _ in connections]
    deadline = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        for i, connection in enumerate(connections):
            selector.register(connection, selectors.EVENT_READ, i)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} streams are open still"
            for key, _ in selector.select(timeout=1):
                data = key.fileobj.recv(65536)
                received[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    return received


def text_of(received):
    head, _, chunked = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received[:300]
    data = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        data, chunked = data + chunked[:int(size, 16)], chunked[int(size, 16) + 2:]
    chunks = raw_http.events(raw_http.Answer(200, {}, data))
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def test_every_stream_ends_with_the_text_it_has_alone(address):
    connections = open_all(address)
    await_open(address)
    threads = threads_of(address.port)
    begin = time.monotonic()
    together = [text_of(received) for received in read_all(connections)]
    print(f"\n{STREAMS} streams in {time.monotonic() - begin:.1f} s, {threads} threads")
    assert threads < MOST_THREADS
    for i, text in enumerate(together):
        alone = raw_http.request(address, "POST", "/v1/completions", body(i, False)).json()
        assert text == alone["choices"][0]["text"], f"stream {i}"
    raw_http.await_metric(address, "vllm:num_requests_running", 0)
    raw_http.await_metric(address, "vllm:kv_cache_usage_perc", 0)

"""Starts one `sluice serve` with the embedded model for the whole session."""

import contextlib
import os
import pathlib
import queue
import re
import subprocess
import threading

import openai
import pytest

from raw_http import Address

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
START_SECONDS = 120  # a sanitizer's build on a busy machine


def wait_for_address(process, log, tls=None):
    """Reads the output until the server says where it listens; keeps adding its lines to `log`."""
    lines = queue.Queue()

    def drain():
        for line in process.stdout:
            log.append(line)
            lines.put(line)
        lines.put(None)

    threading.Thread(target=drain, daemon=True).start()
    seen = []
    while True:
        try:
            line = lines.get(timeout=START_SECONDS)
        except queue.Empty:
            pytest.exit(f"the server did not say where it listens within {START_SECONDS} s: {seen}", 1)
        if line is None:
            pytest.exit(f"the server ended with code {process.wait()}: {seen}", 1)
        seen.append(line)
        found = re.search(r"listening on https?://([0-9.]+):(\d+)", line)
        if found:
            return Address(found[1], int(found[2]), tls)


def launch(*arguments, environment=None):
    return subprocess.Popen([BINARY, "serve", "--port", "0", *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, **(environment or {})})


@contextlib.contextmanager
def serving(*arguments, environment=None, tls=None):
    """A server with these arguments; gives its address and the lines it says, which grow."""
    log = []
    process = launch(*arguments, environment=environment)
    yield wait_for_address(process, log, tls), log
    assert process.poll() is None, f"the server died during the tests, code {process.returncode}"
    process.terminate()
    assert process.wait(timeout=30) == 0, "the server did not end cleanly on SIGTERM"


@pytest.fixture(scope="session")
def address():
    with serving() as (address, _):
        yield address


@pytest.fixture(scope="session")
def client(address):
    with openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id

"""A server that asks for a key."""

import subprocess

import openai
import pytest

import raw_http
from conftest import BINARY, serving


@pytest.fixture(scope="module")
def locked():
    with serving("--api-key", "first secret", "--api-key", "second") as (address, _):
        yield address


def client_with(address, key):
    return openai.OpenAI(base_url=address.url + "/v1", api_key=key, max_retries=0, timeout=60)


@pytest.mark.parametrize("key", ["none", "first", "first secret!", "SECOND"])
def test_without_the_key(locked, key):
    with client_with(locked, key) as client:
        with pytest.raises(openai.AuthenticationError) as error:
            client.completions.create(model="storyteller", prompt="x", max_tokens=2)
        assert error.value.status_code == 401 and error.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


@pytest.mark.parametrize("key", ["first secret", "second"])
def test_with_the_key(locked, key):
    with client_with(locked, key) as client:
        answer = client.completions.create(model=client.models.list().data[0].id, prompt="x", max_tokens=2)
        assert answer.choices[0].finish_reason
        chunks = client.chat.completions.create(model="storyteller", max_tokens=2, stream=True,
                                                messages=[{"role": "user", "content": "x"}])
        assert [chunk for chunk in chunks if chunk.choices]


def test_health_needs_none(locked):
    assert raw_http.request(locked, "GET", "/health").status == 200
    assert raw_http.request(locked, "GET", "/v1/models").status == 401


@pytest.mark.parametrize("arguments", [["--api-key", ""], ["--api-key="], ["--api-key", "good", "--api-key", ""]])
def test_an_empty_key_is_refused_at_start(arguments):
    done = subprocess.run([BINARY, "serve", "--port", "0", *arguments], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 2 and "--api-key" in done.stderr, done.stderr

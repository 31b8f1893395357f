"""HTTPS with keys and CORS on: curl, OpenAI's client, and what a browser does."""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import time

import openai
import pytest

import certificates
import raw_http
from conftest import BINARY, serving

ORIGIN = "https://chat.example"
KEYS = {"flag": "flag-key", "file": "key in a file", "environment": "environment-key"}
STORY = {"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def locked(pems, tmp_path_factory):
    key_file = tmp_path_factory.mktemp("keys") / "keys"
    key_file.write_text(f"# who may\n\n  {KEYS['file']}  \n")
    with serving("--ssl-certfile", pems.certificate, "--ssl-keyfile", pems.key,
                 "--api-key", KEYS["flag"], "--api-key-file", key_file,
                 "--allowed-origins", f"{ORIGIN},http://localhost:3000", "--header-timeout", "2",
                 environment={"SLUICE_API_KEY": KEYS["environment"]}, tls=pems.trusting()) as served:
        yield served


@pytest.fixture(scope="module")
def address(locked):
    return locked[0]


def client_with(address, key):
    return openai.OpenAI(base_url=address.url + "/v1", api_key=key, max_retries=0, timeout=60,
                         http_client=openai.DefaultHttpx2Client(verify=address.tls))


def with_key(*more):
    return [f"Authorization: Bearer {KEYS['flag']}", *more]


def ask(address, body, *fields):
    return raw_http.request(address, "POST", "/v1/completions", body, with_key(*fields))


@pytest.mark.parametrize("source", KEYS)
def test_openai_client(address, source):
    with client_with(address, KEYS[source]) as client:
        whole = client.completions.create(**STORY).choices[0].text
        chunks = client.completions.create(**STORY, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole
    with client_with(address, KEYS[source] + "x") as client:
        with pytest.raises(openai.AuthenticationError) as error:
            client.models.list()
        assert error.value.response.headers["www-authenticate"] == "Bearer"


def curl(*arguments):
    return subprocess.run(["curl", "-sS", "--max-time", "60", *map(str, arguments)], capture_output=True,
                          text=True, check=False)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(address, pems, version):
    done = curl("--cacert", pems.authority, f"--tlsv{version}", "--tls-max", version,
                "-H", f"Authorization: Bearer {KEYS['flag']}", "-H", "Content-Type: application/json",
                "-d", json.dumps(STORY), address.url + "/v1/completions")
    assert json.loads(done.stdout)["choices"][0]["text"], done
    stranger = curl(address.url + "/health")
    assert stranger.returncode == 60, stranger  # it trusts no authority that signed this


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(address, pems):
    context = pems.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        raw_http.connect(raw_http.Address(address.host, address.port, context))


def test_a_browser_asks_first_and_needs_no_key_for_it(address):
    fields = [f"Origin: {ORIGIN}", "Access-Control-Request-Method: POST",
              "Access-Control-Request-Headers: authorization,content-type,x-stainless-os"]
    asked = raw_http.request(address, "OPTIONS", "/v1/chat/completions", headers=fields)
    assert asked.status == 204
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    fields[0] = "Origin: https://elsewhere.example"
    stranger = raw_http.request(address, "OPTIONS", "/v1/chat/completions", headers=fields)
    assert stranger.status == 403 and "access-control-allow-origin" not in stranger.headers


def test_answers_streams_and_errors_carry_the_origin(address):
    from_page = f"Origin: {ORIGIN}"
    answers = [
        (200, ask(address, STORY, from_page)),
        (200, ask(address, {**STORY, "stream": True}, from_page)),
        (400, ask(address, b"{", from_page)),
        (400, ask(address, STORY, from_page, "Transfer-Encoding: chunked")),
        (415, ask(address, STORY, from_page, "Content-Encoding: gzip")),
        (401, raw_http.request(address, "POST", "/v1/completions", STORY, [from_page])),
        (404, raw_http.request(address, "GET", "/nowhere", headers=[from_page])),
    ]
    for status, answer in answers:
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN, status
        assert answer.headers["vary"] == "Origin"
    for stranger in (ask(address, STORY), ask(address, STORY, "Origin: https://elsewhere.example")):
        assert stranger.status == 200
        assert "access-control-allow-origin" not in stranger.headers


def test_keep_alive_and_large_bodies(address):
    prompt = "wolf " * 200_000
    tokenize = json.dumps({"prompt": prompt}).encode()
    with raw_http.connect(address) as connection, connection.makefile("rb") as file:
        connection.sendall(raw_http.encode("POST", "/tokenize", tokenize) + raw_http.encode("GET", "/health"))
        assert raw_http.read_answer(file).json()["count"] > 100_000
        assert raw_http.read_answer(file).status == 200
        connection.sendall(raw_http.encode("GET", "/version", headers=["Connection: close"]))
        assert raw_http.read_answer(file).status == 200
        assert file.read() == b""  # ended as TLS wants it: an end that is cut off raises


def test_a_client_that_hangs_up_frees_everything(address):
    endless = {**STORY, "max_tokens": 1900, "ignore_eos": True, "n": 2}
    for stream in (True, False):
        with raw_http.connect(address) as connection:
            body = json.dumps({**endless, "stream": stream}).encode()
            connection.sendall(raw_http.encode("POST", "/v1/completions", body, with_key()))
            raw_http.await_metric(address, "vllm:num_requests_running", 2)
        raw_http.await_metric(address, "vllm:num_requests_running", 0)
        raw_http.await_metric(address, "vllm:kv_cache_usage_perc", 0)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_who_opens_no_tls_is_let_go(address, sent):
    start = time.monotonic()
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(sent)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert time.monotonic() - start < 15  # --header-timeout 2
    assert raw_http.request(address, "GET", "/health").status == 200


def command_lines():
    """Of every process, as any user can list them."""
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            pass


def test_keys_are_told_to_nobody(address, locked):
    ask(address, STORY)
    raw_http.request(address, "GET", "/v1/models", headers=["Authorization: Bearer wrong-key"])
    said = "\n".join(locked[1])
    listed = [arguments for arguments in command_lines() if "--api-key-file" in arguments]
    assert listed and all(KEYS["flag"] not in arguments for arguments in listed)
    for secret in [*KEYS.values(), "wrong-key"]:
        assert secret not in said


def refusal(*arguments, environment=None):
    done = subprocess.run([BINARY, "serve", "--port", "0", *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, check=False, env={**os.environ, **(environment or {})})
    assert done.returncode == 2, done
    return done.stderr


def test_certificates_that_cannot_be_used_are_refused_at_start(pems):
    assert "--ssl-certfile" in refusal("--ssl-keyfile", pems.key)
    said = refusal("--ssl-certfile", pems.certificate, "--ssl-keyfile", pems.other_key)
    assert f"{pems.other_key} is not the key of the certificate in {pems.certificate}" in said
    said = refusal("--ssl-certfile", "/nowhere.pem", "--ssl-keyfile", pems.key)
    assert "/nowhere.pem cannot be read: No such file" in said
    said = refusal("--ssl-certfile", pems.certificate, "--ssl-keyfile", pems.encrypted_key)
    assert "--ssl-keyfile-password" in said


def test_an_encrypted_key_with_its_password(pems):
    with serving("--ssl-certfile", pems.certificate, "--ssl-keyfile", pems.encrypted_key,
                 "--ssl-keyfile-password", pems.PASSWORD, tls=pems.trusting()) as (address, _):
        assert raw_http.request(address, "GET", "/health").status == 200


def test_what_follows_a_key_is_the_model():
    done = subprocess.run([BINARY, "serve", "--port", "0", "--api-key", "secret", "/nowhere"], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 1 and "/nowhere" in done.stderr


def test_keys_that_cannot_be_used_are_refused_at_start(tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n")
    assert "holds no key" in refusal("--api-key-file", empty)
    assert "No such file" in refusal("--api-key-file", tmp_path / "none")
    broken = tmp_path / "broken"
    broken.write_text("good\nse\x01cret\n")
    said = refusal("--api-key-file", broken)
    assert "line 2" in said and "cret" not in said
    assert "SLUICE_API_KEY" in refusal(environment={"SLUICE_API_KEY": ""})


@pytest.mark.parametrize("arguments, words", [
    (["--allowed-origins", "https://chat.example/"], "leave the last '/' out"),
    (["--allowed-origins", "chat.example"], "as browsers send them"),
    (["--allowed-origins", '["*"]', "--allow-credentials"], "by name"),
    (["--allow-credentials"], "--allowed-origins"),
    (["--allowed-origins", '["https://a.example", "b.example"]'], "got 'b.example'"),
    (["--allowed-methods", "GET"], "name those too"),
])
def test_origins_that_no_browser_sends_are_refused_at_start(arguments, words):
    assert words in refusal(*arguments)

"""Refusals: statuses, OpenAI's error body, and a server that lives on."""

import json
import threading

import openai
import pytest

import raw_http

CHAT = [{"role": "user", "content": "x"}]


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.completions.create(model="no-such-model", prompt="x")
    assert error.value.code == "model_not_found" and error.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=CHAT)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_prompt_longer_than_the_context(client, model):
    limit = client.models.list().data[0].max_model_len
    prompt = [1] * (limit + 100)
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=model, prompt=prompt, max_tokens=7)
    assert error.value.code == "context_length_exceeded"
    assert str(limit) in error.value.message and str(limit + 100) in error.value.message
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=model,
                                       messages=[{"role": "user", "content": "wolf " * (2 * limit)}])
    assert error.value.code == "context_length_exceeded"


@pytest.mark.parametrize("param, fields", [
    ("temperature", {"temperature": -1}),
    ("temperature", {"temperature": "hot"}),
    ("top_p", {"top_p": 0}),
    ("repetition_penalty", {"repetition_penalty": 1e-30}),
    ("stop", {"stop": "z" * 5000}),
    ("stop_token_ids", {"stop_token_ids": list(range(300))}),
    ("logit_bias", {"logit_bias": {"05": 1}}),
    ("top_p", {"top_p": 2}),
    ("top_k", {"top_k": -5}),
    ("min_p", {"min_p": 7}),
    ("n", {"n": 0}),
    ("n", {"n": 1.5}),
    ("best_of", {"n": 1, "best_of": 3}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": "many"}),
    ("min_tokens", {"max_tokens": 2, "min_tokens": 3}),
    ("presence_penalty", {"presence_penalty": 2.1}),
    ("frequency_penalty", {"frequency_penalty": -2.1}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("logit_bias", {"logit_bias": {"99999999": 1}}),
    ("logit_bias", {"logit_bias": [1]}),
    ("seed", {"seed": "x"}),
    ("stop", {"stop": [1]}),
    ("stop", {"stop": ""}),
    ("stop_token_ids", {"stop_token_ids": [-1]}),
    ("stream", {"stream": 1}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("response_format", {"response_format": {"type": "json_object"}}),
])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_bad_fields(address, path, param, fields):
    body = {"prompt": "x"} if path == "/v1/completions" else {"messages": CHAT}
    answer = raw_http.request(address, "POST", path, {**body, **fields})
    assert answer.status == 400, answer.body
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param in error["message"] and "code" in error


@pytest.mark.parametrize("path, body, param", [
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": {}}, "prompt"),
    ("/v1/completions", {"prompt": ""}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [10**7]}, "prompt"),
    ("/v1/completions", {"prompt": "x", "logprobs": 99}, "logprobs"),
    ("/v1/chat/completions", {}, "messages"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("/v1/chat/completions", {"messages": [{"role": "x", "content": "y"}]}, "messages[0].role"),
    ("/v1/chat/completions", {"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
    ("/v1/chat/completions", {"messages": CHAT, "top_logprobs": 2}, "top_logprobs"),
    ("/v1/generate", {}, "prompt"),
    ("/v1/generate", {"prompt": "x", "n": 2}, "n"),
    ("/detokenize", {"tokens": "x"}, "tokens"),
])
def test_bad_bodies(address, path, body, param):
    answer = raw_http.request(address, "POST", path, body)
    assert answer.status == 400, answer.body
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'{"prompt": "x"} trailing', b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "\\ud800"}', b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", b"\x00\x01\x02",
])
def test_malformed_json(address, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/generate", "/tokenize"):
        answer = raw_http.request(address, "POST", path, body)
        assert answer.status == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/v2/models", 404), ("POST", "/v1/nothing", 404),
    ("GET", "/v1/completions", 405), ("PUT", "/v1/completions", 405), ("POST", "/health", 405),
    ("DELETE", "/v1/models", 405),
])
def test_paths_and_methods(address, method, path, status):
    answer = raw_http.request(address, method, path)
    assert answer.status == status
    assert answer.json()["error"]["message"]
    if status == 405:
        assert "allow" in answer.headers


@pytest.mark.parametrize("data, status", [
    (b"not http at all\r\n\r\n", 400),
    (b"GET /health HTTP/3.7\r\n\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
])
def test_malformed_http(address, data, status):
    with raw_http.connect(address) as connection, connection.makefile("rb") as file:
        connection.sendall(data)
        assert raw_http.read_answer(file).status == status
    assert raw_http.request(address, "GET", "/health").status == 200


def test_bad_requests_leave_others_unharmed(address, client, model):
    arguments = dict(model=model, prompt="The wolf", max_tokens=100, seed=2,
                     extra_body={"ignore_eos": True})
    alone = client.completions.create(**arguments).choices[0].text
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            raw_http.request(address, "POST", "/v1/completions", b"{")
            raw_http.request(address, "POST", "/v1/completions", {"prompt": [1] * 5000})

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert client.completions.create(**arguments).choices[0].text == alone
    finally:
        stop.set()
        thread.join()


def test_error_body_is_whole(address):
    error = json.loads(raw_http.request(address, "GET", "/nowhere").body)["error"]
    assert set(error) == {"message", "type", "param", "code"}

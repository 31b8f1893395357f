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
    ("seed", {"seed": 2**64 - 1}),
    ("allowed_token_ids", {"allowed_token_ids": [5]}),
    ("regex", {"regex": "[a-z]+"}),
    ("json_schema", {"json_schema": {"type": "object"}}),
    ("grammar", {"grammar": "root ::= x"}),
    ("length_penalty", {"length_penalty": 1.5}),
    ("no_repeat_ngram_size", {"no_repeat_ngram_size": 2}),
    ("typical_p", {"typical_p": 0.9}),
    ("prompt_embeds", {"prompt_embeds": "AAAA"}),
    ("prompt_logprobs", {"prompt_logprobs": 0}),
    ("lora_name", {"lora_name": "a"}),
    ("return_token_ids", {"return_token_ids": True}),
    ("function_call", {"function_call": {"name": "f"}}),
    ("thinking", {"thinking": {"type": "enabled"}}),
    ("reasoning_effort", {"reasoning_effort": "low"}),
    ("tools", {"tools": [{"type": "function"}]}),
    ("max_token", {"max_token": 5}),
    ("stream_options.continuous_usage_stats",
     {"stream": True, "stream_options": {"continuous_usage_stats": True}}),
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


@pytest.mark.parametrize("fields, words", [
    ({"top_p": 0}, "above 0, got 0"),
    ({"seed": 2**64 - 1}, f"from {-2**63} to {2**63 - 1}"),
    ({"max_token": 5}, "did you mean max_tokens?"),
    ({"regex": "x"}, "leave it out"),
])
def test_messages_say_what_to_do(address, fields, words):
    answer = raw_http.request(address, "POST", "/v1/completions", {"prompt": "x", **fields})
    assert answer.status == 400 and words in answer.json()["error"]["message"]


def test_fields_that_change_no_answer(client, model):
    arguments = dict(model=model, max_tokens=5, seed=1)
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
                "safety_identifier": "me", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
                "parallel_tool_calls": True, "tools": [], "length_penalty": 1.0, "use_beam_search": False,
                "grammar": None}
    plain = client.completions.create(prompt="x", **arguments)
    same = client.completions.create(prompt="x", extra_body=harmless, **arguments)
    assert same.choices[0].text == plain.choices[0].text
    plain = client.chat.completions.create(messages=CHAT, **arguments)
    same = client.chat.completions.create(messages=CHAT, extra_body=harmless, **arguments)
    assert same.choices[0].message.content == plain.choices[0].message.content


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
    ("/v1/completions", {"prompt": "x", "top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions",
     {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]},
     "messages[0].tool_calls"),
    ("/v1/chat/completions", {"messages": [*CHAT, {**CHAT[0], "contents": "y"}]}, "messages[1].contents"),
    ("/v1/chat/completions",
     {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "image": "y"}]}]},
     "messages[0].content[0].image"),
    ("/v1/chat/completions", {"messages": CHAT, "chat_template_kwargs": {"tools": []}},
     "chat_template_kwargs.tools"),
    ("/v1/chat/completions",
     {"messages": CHAT, "chat_template_kwargs": {"add_generation_prompt": False}},
     "chat_template_kwargs.add_generation_prompt"),
    ("/v1/generate", {"prompt": "x", "n": 2}, "n"),
    ("/v1/generate", {"prompt": "x", "top_logprobs": 2}, "top_logprobs"),
    ("/v1/generate", {"prompt": "x", "tools": [{"type": "function"}]}, "tools"),
    ("/tokenize", {"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
    ("/tokenize", {"prompt": "x", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ("/detokenize", {"tokens": "x"}, "tokens"),
    ("/detokenize", {"tokens": [1], "skip_special": True}, "skip_special"),
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

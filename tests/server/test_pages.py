"""The small endpoints, and the simple API."""

import pytest

import raw_http


def test_models(client, model):
    assert model == "storyteller"
    assert client.models.retrieve(model).id == model


def test_health_and_version(address):
    assert raw_http.request(address, "GET", "/health").status == 200
    assert raw_http.request(address, "GET", "/version").json()["version"]


@pytest.mark.parametrize("name", [
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_preemptions_total",
    "vllm:time_to_first_token_seconds_count", "vllm:e2e_request_latency_seconds_count",
    "vllm:request_success_total", "sluice:http_requests_total",
])
def test_metric_names(address, client, model, name):
    client.completions.create(model=model, prompt="x", max_tokens=2)
    assert raw_http.metric(address, name) is not None


def test_tokens_are_counted(address, client, model):
    before = raw_http.metric(address, "vllm:generation_tokens_total")
    client.completions.create(model=model, prompt="x", max_tokens=25, extra_body={"ignore_eos": True})
    raw_http.await_metric(address, "vllm:generation_tokens_total", before + 25)


def test_tokenize_round_trip(address):
    text = "naïve café — “日本語” 🙂"
    tokens = raw_http.request(address, "POST", "/tokenize", {"prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"])
    back = raw_http.request(address, "POST", "/detokenize", {"tokens": tokens["tokens"]}).json()
    assert back["prompt"] == text
    chat = raw_http.request(address, "POST", "/tokenize",
                            {"messages": [{"role": "user", "content": text}]}).json()
    assert chat["count"] > tokens["count"]


def test_generate(address):
    body = {"prompt": "The wolf", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    answer = raw_http.request(address, "POST", "/v1/generate", body).json()
    assert answer["text"] and answer["finish_reason"] == "length"
    assert 0 < answer["ttft_ms"] <= answer["latency_ms"]
    assert answer["tokens"]["completion"] == 12
    assert answer["tokens"]["total"] == answer["tokens"]["prompt"] + 12
    assert answer["memory"]["resident_bytes"] > 1 << 20
    assert 0 <= answer["memory"]["kv_pages_used"] <= answer["memory"]["kv_pages_total"]

    events = raw_http.events(raw_http.request(address, "POST", "/v1/generate_stream", body))
    assert "".join(event["text"] for event in events) == answer["text"]
    assert events[-1]["finish_reason"] == "length"
    assert events[-1]["tokens"] == answer["tokens"]
    assert events[-1]["latency_ms"] >= events[-1]["ttft_ms"] > 0

"""The prefix cache through the official client."""

import raw_http

from conftest import serving

# Longer than any other test's prompts; each test begins its own with another number.
LONG = " ".join(f"the wolf counted {i} sheep and then slept a little," for i in range(40))


def complete(client, model, prompt, **more):
    body = {"ignore_eos": True, **more.pop("extra_body", {})}
    return client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0, logprobs=2,
                                     extra_body=body, **more)


def cached(answer):
    return answer.usage.prompt_tokens_details.cached_tokens


def test_a_prompt_is_computed_once(address, client, model):
    before = {name: raw_http.metric(address, f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits")}
    processed = raw_http.metric(address, "vllm:prompt_tokens_total")
    cold = complete(client, model, "1 " + LONG)
    warm = complete(client, model, "1 " + LONG)
    assert cached(cold) == 0
    tokens = warm.usage.prompt_tokens
    assert tokens - 16 <= cached(warm) < tokens
    assert warm.choices[0].text == cold.choices[0].text
    assert warm.choices[0].logprobs == cold.choices[0].logprobs, "not bit for bit the same"
    raw_http.await_metric(address, "vllm:prefix_cache_queries_total", before["queries"] + 2 * tokens)
    raw_http.await_metric(address, "vllm:prefix_cache_hits_total", before["hits"] + cached(warm))
    raw_http.await_metric(address, "vllm:prompt_tokens_total", processed + 2 * tokens)


def test_salts_share_nothing(client, model):
    def salted(salt):
        return complete(client, model, "2 " + LONG, extra_body={"cache_salt": salt})

    first = salted("mine")
    assert cached(first) == 0
    assert cached(complete(client, model, "2 " + LONG)) == 0
    other = salted("yours")
    assert cached(other) == 0
    again = salted("mine")
    assert cached(again) > 0
    assert first.choices[0].text == other.choices[0].text == again.choices[0].text


def test_a_conversation_goes_on_from_its_answer(client, model):
    messages = [{"role": "user", "content": "3 " + LONG}]
    arguments = dict(model=model, max_tokens=40, temperature=0, extra_body={"ignore_eos": True})
    first = client.chat.completions.create(messages=messages, **arguments)
    messages += [{"role": "assistant", "content": first.choices[0].message.content},
                 {"role": "user", "content": "And then?"}]
    *_, last = client.chat.completions.create(messages=messages, stream=True,
                                              stream_options={"include_usage": True}, **arguments)
    assert cached(last) > first.usage.prompt_tokens - 32


def test_prompts_that_are_scored_are_computed(client, model):
    plain = complete(client, model, "4 " + LONG, echo=True)
    scored = complete(client, model, "4 " + LONG, echo=True)
    assert cached(scored) == 0
    assert scored.choices[0].logprobs == plain.choices[0].logprobs


def test_it_can_be_left_out():
    with serving("--no-enable-prefix-caching") as (address, _):
        body = {"prompt": LONG, "max_tokens": 2}
        for _ in range(2):
            usage = raw_http.request(address, "POST", "/v1/completions", body).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert raw_http.metric(address, "vllm:prefix_cache_queries_total") == 0

"""What a server's clients see of who runs next: swapping, timeouts, priorities."""

import concurrent.futures
import re
import urllib.request

import openai
import pytest

from conftest import serving

# Room for about two of the sequences below; a step of many rows costs more than copies of pages.
TIGHT = ("--kv-cache-memory", "1MB", "--max-model-len", 256)


def client_of(address):
    return openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=0, timeout=120)


def texts_of(address, count):
    with client_of(address) as client, concurrent.futures.ThreadPoolExecutor(count) as pool:
        model = client.models.list().data[0].id

        def tell(seed):
            answer = client.completions.create(model=model, prompt="Once upon a time there was", max_tokens=150,
                                               seed=seed, extra_body={"ignore_eos": True})
            return answer.choices[0].text

        return list(pool.map(tell, range(count)))


def counters(address):
    with urllib.request.urlopen(address.url + "/metrics") as page:
        text = page.read().decode()
    return {name: float(value) for name, value in re.findall(r"^([\w:]+)(?:\{.*\})? (\S+)$", text, re.M)}


def test_texts_are_the_same_whether_pages_are_swapped_or_not():
    with serving("--max-model-len", 256) as (address, _):
        undisturbed = texts_of(address, 16)
    for swap_space in (0, 1):
        with serving(*TIGHT, "--swap-space", swap_space) as (address, _):
            assert texts_of(address, 16) == undisturbed
            seen = counters(address)
            assert seen["vllm:num_preemptions_total"] > 0
            assert (seen["sluice:swapped_in_pages_total"] > 0) == (swap_space > 0), seen


def test_a_request_ends_when_its_time_is_over():
    with serving("--request-timeout", 0.2) as (address, _), client_of(address) as client:
        model = client.models.list().data[0].id
        ask = {"model": model, "prompt": "Once", "max_tokens": 400, "n": 16}
        with pytest.raises(openai.APIStatusError, match="timeout of 0.05 s") as refused:
            client.completions.create(**ask, extra_body={"ignore_eos": True, "timeout": 0.05})
        assert refused.value.status_code == 504
        with pytest.raises(openai.APIStatusError, match="timeout of 0.2 s"):
            client.completions.create(**ask, extra_body={"ignore_eos": True, "timeout": 60})
        seen = counters(address)
        assert seen["vllm:kv_cache_usage_perc"] == 0

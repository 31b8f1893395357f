"""What a server whose experts do not all have a slot shows in /metrics."""

import concurrent.futures
import re

import pytest
import raw_http

from conftest import serving

LINE = re.compile(r"^(sluice:offload_\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
WORK = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
FLAGS = ["--expert-slots", 12, "--link-bandwidth", "2GB", "--ram-budget", "1GB"]


def counts(address):
    """Of each family, the sum over its lines."""
    page = raw_http.request(address, "GET", "/metrics").body.decode()
    sums = {}
    for name, labels, value in LINE.findall(page):
        assert 'model_name="storyteller"' in labels
        sums[name.removeprefix("sluice:offload_")] = sums.get(name.removeprefix("sluice:offload_"), 0) + float(value)
    return sums


@pytest.mark.parametrize("worker", ["off", "on"])
def test_counts_of_experts_that_come_over_the_link(worker):
    with serving(*FLAGS, "--worker-process", worker) as (address, _):
        assert raw_http.request(address, "POST", "/v1/completions", WORK).status == 200
        seen = counts(address)
        assert seen["expert_slots"] == 12 and seen["host_expert_slots"] == 96
        requests = seen["expert_requests_total"]
        assert requests == seen["expert_hits_total"] + seen["expert_misses_total"] > 0
        assert seen["expert_failed_total"] == 0 and seen["disk_bytes_total"] == 0
        slot = 3 * 256 * 64 * 2
        assert seen["link_bytes_total"] == slot * (seen["expert_misses_total"] + seen["prefetched_total"])
        assert 0 < seen["link_arrived_bytes_total"] <= seen["link_bytes_total"]
        assert 0 < seen["link_busy_seconds_total"]
        assert raw_http.request(address, "POST", "/v1/completions", WORK).status == 200
        assert counts(address)["expert_requests_total"] > requests


def test_counts_steps_in_which_prompts_wait_for_each_other():
    flags = ["--expert-slots", 8, "--link-bandwidth", "100MB", "--ram-budget", "1GB", "--max-num-seqs", 4]
    with serving(*flags) as (address, _):
        def ask(count):
            return raw_http.request(address, "POST", "/v1/completions", WORK | {"max_tokens": 2 + count % 7}).status

        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            assert set(threads.map(ask, range(48))) == {200}
        page = raw_http.request(address, "GET", "/metrics").body.decode()
    assert float(re.search(r"^sluice:prompts_put_off_steps_total\{.*\} (\S+)$", page, re.MULTILINE)[1]) > 0


def test_a_server_that_holds_every_expert_shows_none():
    with serving() as (address, _):
        assert counts(address) == {}

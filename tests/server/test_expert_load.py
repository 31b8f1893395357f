"""A server that counts its experts' tokens, and the study that watches it."""

import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest
import raw_http

from conftest import BINARY, launch, serving, wait_for_address

TOKENS = re.compile(r'^sluice:expert_tokens_total\{.*layer="(\d+)",expert="(\d+)"\} (\d+)$', re.MULTILINE)
WORK = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "ignore_eos": True}


def complete(address, **more):
    assert raw_http.request(address, "POST", "/v1/completions", {**WORK, **more}).status == 200


def counts(address):
    page = raw_http.request(address, "GET", "/metrics").body.decode()
    return {(int(layer), int(expert)): int(count) for layer, expert, count in TOKENS.findall(page)}


def watch(address, *arguments, code=0):
    """Runs the study of a server; returns its report, or what it complained of."""
    done = subprocess.run([BINARY, "study", "load-balance", "--server", address.url, "--json", *map(str, arguments)],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.mark.parametrize("worker", ["off", "on"])
def test_the_study_sees_what_a_trace_of_the_same_work_holds(worker, tmp_path):
    process = launch("--router-trace", tmp_path / "run.trace")
    complete(wait_for_address(process, []))
    process.terminate()
    assert process.wait(timeout=30) == 0
    done = subprocess.run([BINARY, "study", "load-balance", tmp_path / "run.trace", "--json"],
                          capture_output=True, text=True, timeout=120, check=True)
    traced = json.loads(done.stdout)

    with serving("--expert-load", "--worker-process", worker) as (address, _):
        complete(address, max_tokens=3)  # before the study begins
        started = counts(address)
        report = []
        study = threading.Thread(target=lambda: report.append(watch(address, "--windows", 2, "--window-s", 3)))
        study.start()
        time.sleep(1)
        complete(address)
        study.join()
        after = counts(address)
    (live,) = report
    assert live["source"] == address.url and live["model"] == "storyteller"
    assert [layer["loads"] for layer in live["layers"]] == [layer["loads"] for layer in traced["layers"]]
    assert [layer["experts"] for layer in live["layers"]] == [layer["experts"] for layer in traced["layers"]]
    for layer in live["layers"]:
        for expert, load in enumerate(layer["loads"]):
            place = (layer["layer"], expert)
            assert after[place] - started[place] == load
    assert [placement["name"] for placement in live["placements"]] == [
        "contiguous", "migrate", "remap", "replicate"]


def test_the_layers_imbalance_is_shown_without_being_asked_for(address):
    complete(address)
    page = raw_http.request(address, "GET", "/metrics").body.decode()
    for name, least in (("expert_imbalance", 1), ("expert_gini", 0), ("expert_cv", 0)):
        found = re.findall(rf'^sluice:{name}{{model_name="storyteller",layer="\d+"}} ([0-9.e-]+)$', page, re.MULTILINE)
        assert found and all(float(value) > least for value in found), name
    assert not counts(address)


def test_a_worker_that_takes_over_counts_on():
    with serving("--expert-load", "--worker-process", "on") as (address, log):
        complete(address)
        before = counts(address)
        assert sum(before.values()) > 0
        (worker,) = re.findall(r"the worker is process (\d+)", "".join(log))
        os.kill(int(worker), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(re.findall(r"the worker is process (\d+)", "".join(log))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while raw_http.request(address, "POST", "/v1/completions", WORK).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert counts(address) == {place: 2 * count for place, count in before.items()}


def test_what_cannot_be_watched_is_told(address, tmp_path):
    assert "--expert-load" in watch(address, "--windows", 1, "--window-s", 0.1, code=1)
    assert "one thing to study" in watch(address, "--source", "uniform", code=2)
    process = launch("--expert-load", "--router-trace", tmp_path / "run.trace")
    assert "leave one of them out" in process.communicate(timeout=60)[0]
    assert process.returncode == 2

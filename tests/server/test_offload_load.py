"""A server under load whose experts do not all have a slot, also while one of them cannot be read."""

import concurrent.futures
import contextlib
import json
import shutil
import subprocess
import time

import pytest
import raw_http

from conftest import BINARY, ROOT, serving
from test_load import load

LINK = ["--expert-slots", 8, "--ram-budget", "1GB", "--link-bandwidth", "100MB", "--link-latency-us", 50]
# A golden of latent attention, with random weights for the storyteller's tokens; and the storyteller itself.
LATENT = [ROOT / "tests/golden/deepseek_v3", "--load-format", "dummy", "--hf-overrides", '{"vocab_size": 4096}',
          "--tokenizer", ROOT / "models/storyteller"]
SERVED = {"over a link": [*LATENT, *LINK], "from the files": ["--expert-slots", 20]}

# How long things take is measured by the whole runs, on a machine with nothing else to do.
OF_PACE = {"stall", "goodput", "refusals", "memory"}


def held_but_pace(result):
    return {name: held for name, held in result["held"].items() if name not in OF_PACE}


@pytest.mark.parametrize("served", SERVED)
def test_clients_that_vanish_leave_nothing(served):
    result = load("disconnects", "--requests", 300, "--", *SERVED[served])
    assert all(held_but_pace(result).values()), result
    assert 0 < result["longest_stall_ms"], result


@pytest.mark.parametrize("served", SERVED)
def test_overload_is_refused_and_streams_go_on(served):
    result = load("overload", "--seconds", 3, "--turns", 1, "--input-len", 24, "--output-len", 40, "--at-once", 16, "--",
                  *SERVED[served])
    assert all(held_but_pace(result).values()), result
    assert result["refused"] > 0 and result["completed"] > 0, result
    assert 0 < result["p99_itl_ms"] <= result["longest_stall_ms"], result


BROKEN = "model.layers.5.mlp.experts.15."  # the last of the storyteller's experts, which no tier begins with
NAMED = "expert 15 of layer 5 could not be read"


def write_shard(path, tensors, header, data):
    offset, entries = 0, {}
    for name in tensors:
        begin, end = header[name]["data_offsets"]
        entries[name] = {**header[name], "data_offsets": [offset, offset + end - begin]}
        offset += end - begin
    head = json.dumps(entries).encode()
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in tensors:
            file.write(data[slice(*header[name]["data_offsets"])])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The storyteller with one expert in a file of its own; gives the folder and that file."""
    source = ROOT / "models/storyteller"
    folder = tmp_path_factory.mktemp("models") / "storyteller"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    content = (source / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    shards = {"rest.safetensors": [name for name in header if not name.startswith(BROKEN)],
              "expert.safetensors": [name for name in header if name.startswith(BROKEN)]}
    for shard, tensors in shards.items():
        write_shard(folder / shard, tensors, header, content[begin:])
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder, folder / "expert.safetensors"


@contextlib.contextmanager
def cut_short(path):
    """For those who have opened it; then it is whole again."""
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.truncate(len(content) // 4)
        try:
            yield
        finally:
            file.seek(0)
            file.write(content)


def ask(address, prompt):
    """The text, or the error; asks again when refused for want of room."""
    work = {"prompt": prompt, "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    while (answer := raw_http.request(address, "POST", "/v1/completions", work)).status == 429:
        time.sleep(0.02)
    said = answer.json()
    return said["choices"][0]["text"] if answer.status == 200 else (answer.status, said["error"]["message"])


@pytest.mark.parametrize("tiers", [["--expert-slots", "20"],
                                   ["--expert-slots", "20", "--ram-budget", "5MB", "--link-bandwidth", "2GB"]],
                         ids=["files", "host memory and files"])
def test_overload_and_an_expert_that_cannot_be_read(model, tiers):
    folder, file = model
    prompts = [f"{name} saw a" for name in "Once Tom Lily The One A Then They He She We It My Big Red Two".split()]
    flags = ["--max-num-seqs", 4, "--max-num-queued-reqs", 8, "--no-enable-prefix-caching"]
    with serving(folder, *tiers, *flags) as (address, _):
        with cut_short(file):
            alone = [ask(address, prompt) for prompt in prompts]
            flood = subprocess.Popen(
                [BINARY, "bench", "serve", "--base-url", address.url, "--num-prompts", "20000",
                 "--max-concurrency", "64", "--random-input-len", "2", "--random-output-len", "4", "--ignore-eos",
                 "--json"],
                stdout=subprocess.PIPE, text=True)
            try:
                with concurrent.futures.ThreadPoolExecutor(8) as threads:
                    together = list(threads.map(lambda prompt: ask(address, prompt), prompts))
                flooded = json.loads(flood.communicate(timeout=120)[0])
            finally:
                flood.kill()
                flood.wait()
        failed = [said for said in alone if isinstance(said, tuple)]
        assert 0 < len(failed) < len(prompts), alone
        assert all(status == 500 and NAMED in message and "expert.safetensors" in message
                   for status, message in failed), failed
        assert together == alone
        kinds = {kind["error"] for kind in flooded["failures"]}
        assert any(NAMED in kind for kind in kinds) and any(kind.startswith("HTTP 429") for kind in kinds), kinds
        assert all(NAMED in kind or kind.startswith("HTTP 429") for kind in kinds), kinds
        assert flooded["completed"] > 0

        # The file is whole again.
        healed = [ask(address, prompt) for prompt in prompts]
        assert not any(isinstance(said, tuple) for said in healed), healed
        assert [said for said in alone if isinstance(said, str)] == [
            now for now, said in zip(healed, alone, strict=True) if isinstance(said, str)]
        assert raw_http.request(address, "GET", "/health").status == 200

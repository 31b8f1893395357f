"""A model whose weights make no numbers."""

import json
import shutil

import openai
import pytest

from conftest import ROOT, serving

SAYS = "the model's logits are not finite"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "damaged"
    shutil.copytree(ROOT / "models/storyteller", folder)
    path = folder / "model.safetensors"
    overwrite_with_nan(path, "model.norm.weight")
    with serving(folder) as (address, log):
        yield address, log


def overwrite_with_nan(path, name):
    """In place: a tensor's bytes, all ones, are NaN in every dtype."""
    with open(path, "r+b") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        begin, end = json.loads(file.read(header_bytes))[name]["data_offsets"]
        file.seek(8 + header_bytes + begin)
        file.write(b"\xff" * (end - begin))


@pytest.mark.parametrize("stream", [False, True])
def test_the_error_says_what_to_do(damaged, stream):
    address, log = damaged
    said = sum(SAYS in line for line in log)
    with openai.OpenAI(base_url=address.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        with pytest.raises(openai.APIError) as error:
            answer = client.completions.create(model="damaged", prompt="x", n=2, stream=stream)
            list(answer)
        message = error.value.message
        assert SAYS in message and "--dtype float32" in message and ".cc" not in message
        if not stream:
            assert error.value.status_code == 500
        assert client.models.list().data
    assert sum(SAYS in line for line in log) == said + 1, log

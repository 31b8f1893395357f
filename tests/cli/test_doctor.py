"""What `sluice doctor` says of a checkpoint, and whether its word about memory holds."""

import json
import os
import pathlib
import random
import shutil
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
SHARDED = ROOT / "tests/golden/qwen2_moe_sharded_bf16_v4"
FLAGS = ["--max-model-len", "256", "--max-num-seqs", "4", "--max-num-batched-tokens", "128"]


def doctor(*arguments, code=0, **environment):
    done = subprocess.run(
        [BINARY, "doctor", *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def tensors_of(config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    experts, ffn = config["num_experts"], config["moe_intermediate_size"]
    shapes = {"model.embed_tokens": [config["vocab_size"], hidden], "lm_head": [config["vocab_size"], hidden]}
    shapes["model.norm"] = [hidden]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[layer + name] = [hidden]
        for name, rows in (("q", heads), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{name}_proj"] = [rows, hidden]
        shapes[layer + "self_attn.o_proj"] = [hidden, heads]
        for name in ("q_norm", "k_norm"):
            shapes[f"{layer}self_attn.{name}"] = [config["head_dim"]]
        shapes[layer + "mlp.gate"] = [experts, hidden]
        for e in range(experts):
            for name, shape in (("gate", [ffn, hidden]), ("up", [ffn, hidden]), ("down", [hidden, ffn])):
                shapes[f"{layer}mlp.experts.{e}.{name}_proj"] = shape
    return shapes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """300 MB of bf16 that mean nothing, with the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("doctor") / "wide"
    folder.mkdir()
    config = {
        "model_type": "qwen3_moe", "torch_dtype": "bfloat16", "vocab_size": 8192, "hidden_size": 1024,
        "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
        "intermediate_size": 1024, "moe_intermediate_size": 704, "num_experts": 24,
        "num_experts_per_tok": 4, "norm_topk_prob": True, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in tensors_of(config).items():
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    # Small numbers: the high byte of each is that of 0.01 or so.
    block = bytes(byte if i % 2 == 0 else 0x3C | (byte & 0x80)
                  for i, byte in enumerate(random.Random(1).randbytes(1 << 16)))
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for begin in range(0, end, len(block)):
            file.write(block[: end - begin])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/storyteller" / name, folder)
    return folder


def peak_bytes(*arguments):
    """The most memory that a run of the binary had resident."""
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.skipif("sanitize" in BINARY or "san/" in BINARY, reason="sanitizers take memory of their own")
@pytest.mark.parametrize("more", [[], ["--load-format", "dummy"], ["--expert-slots", "12"]])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_keeps_within_the_memory_that_was_said(checkpoint, dtype, more):
    said = doctor(checkpoint, *FLAGS, *more)["model"]["memory"][dtype]
    prompt = "Once upon a time there was " * 12
    took = peak_bytes("run", checkpoint, *FLAGS, *more, "--dtype", dtype, "-p", prompt, "--max-tokens", 8)
    assert took <= 1.02 * said["total"], (took, said)
    # And it is no empty promise: most of it is weights, and they are there.
    assert took >= said["weights"]


def test_what_is_in_a_checkpoint(checkpoint):
    model = doctor(checkpoint, *FLAGS)["model"]
    assert model["runs"] is True and model["problems"] == []
    assert model["family"] == "qwen3_moe" and model["stored_as"] == "bf16"
    expert = 3 * 704 * 1024
    assert model["parameters"] - model["active_parameters"] == 2 * 20 * expert
    assert model["weight_files"][0]["tensors"] == 3 + 2 * (9 + 3 * 24)
    assert model["stored_bytes"] == {"bf16": 2 * model["parameters"]}
    assert model["tokenizer"] and "BPE" in model["tokenizer_style"] and model["chat_template"]
    memory = model["memory"]
    assert memory.keys() == {"float32", "bfloat16", "float16"}
    assert memory["float32"]["weights"] == 2 * memory["bfloat16"]["weights"]
    assert memory["bfloat16"]["kv_cache"] == 4 * memory["bfloat16"]["kv_cache_one_sequence"]
    assert memory["bfloat16"]["kv_cache_positions"] == 4 * 256


def test_every_problem_is_listed_not_only_the_first(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(SHARDED, folder)
    (folder / "model-00001-of-00003.safetensors").unlink()
    cut = folder / "model-00003-of-00003.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    (folder / "tokenizer.json").write_text("{")
    model = doctor(folder, code=1)["model"]
    assert model["runs"] is False and model["memory"]["float32"]["fits"] is True
    text = "\n".join(model["problems"])
    for word in ("00001-of-00003", "00003-of-00003", "JSON"):
        assert word in text, text
    assert "00002-of-00003" not in text


def test_tensors_and_options_that_do_not_belong_are_listed(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(SHARDED, folder)
    index = folder / "model.safetensors.index.json"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    assert "not part of" in doctor(folder, code=1)["model"]["problems"][0]
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    model = doctor(folder, code=1)["model"]
    assert "hidden_act" in model["problems"][0] and "memory" not in model
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    model = doctor(folder, code=1)["model"]
    assert model["quantization"] == "awq" and "quantization_config" in model["problems"][0]
    (folder / "config.json").write_text(json.dumps(config))
    index.unlink()
    assert "safetensors" in doctor(folder, code=1)["model"]["problems"][0]


def test_a_model_too_large_is_said_with_what_would_fit():
    folder = ROOT / "configs/models/Qwen3-30B-A3B"
    overrides = json.dumps({"num_hidden_layers": 512})
    model = doctor(folder, "--load-format", "dummy", "--hf-overrides", overrides, *FLAGS, code=1)["model"]
    assert model["problems"] == [] and model["random_weights"] is True
    needs = model["memory"]["float32"]
    assert needs["fits"] is False and needs["weights"] > 10**12
    assert model["parameters"] > model["active_parameters"] > 10**9


def test_the_machine_and_its_models(tmp_path):
    shutil.copytree(SHARDED, tmp_path / "org/sharded")
    environment = {"MODEL_DIR": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "none")}
    report = doctor(**environment)
    assert report["machine"]["models"] == ["org/sharded"]
    assert report["model"]["name"] == "storyteller" and report["model"]["runs"] is True
    done = subprocess.run(
        [BINARY, "doctor", "org/sharded"], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0 and "3 weight files" in done.stdout and "runs here" in done.stdout

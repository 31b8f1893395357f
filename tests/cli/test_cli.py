"""The command line as a user meets it: what works, and what is said when something cannot."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
GOLDEN = ROOT / "tests/golden"


def sluice(*arguments, stdin=None, cwd=ROOT):
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


def report(*arguments):
    done = sluice(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen3_moe", folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "name", ["llama_dense", "qwen2_moe", "qwen2_moe_sharded_bf16_v4", "qwen3_moe"]
)
def test_verify_goldens(name):
    exact = report("verify", GOLDEN / name, "--dtype", "float32")["golden"]
    assert exact["relative_l2"] <= 1e-5
    assert exact["first_greedy_mismatch"] is None
    rounded = report("verify", GOLDEN / name, "--dtype", "bf16", "--replay-routing")["golden"]
    assert 1e-5 < rounded["relative_l2"] <= 3e-2


def test_rotary_frequencies_can_be_rounded_as_a_cast_model_has_them():
    folder = GOLDEN / "qwen2_moe_sharded_bf16_v4"
    cast = ROOT / "tests/data/golden/qwen2_moe_cast.safetensors"
    command = ["verify", folder, "--dtype", "float32", "--golden", cast]
    assert sluice(*command).returncode == 1
    rounded = report(*command, "--hf-overrides", '{"rope_frequency_dtype": "bfloat16"}')["golden"]
    assert rounded["relative_l2"] <= 1e-5
    assert rounded["first_greedy_mismatch"] is None
    refused = sluice(*command, "--hf-overrides", '{"rope_frequency_dtype": "int8"}')
    assert refused.returncode != 0
    assert "rope_frequency_dtype" in refused.stderr


def test_verify_fails_past_the_tolerance(checkpoint):
    edit_config(checkpoint, norm_topk_prob=False)
    done = sluice("verify", checkpoint, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False


def test_require_fast_fails_on_the_portable_kernels():
    done = sluice("verify", GOLDEN / "qwen3_moe", "--require-fast", "--cpu-tier", "portable")
    assert done.returncode == 1
    assert "fallback" in done.stdout


def test_logits_out_holds_the_logits(tmp_path):
    out = tmp_path / "logits.safetensors"
    report("verify", GOLDEN / "qwen3_moe", "--logits-out", out)
    raw = out.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    tensor = json.loads(raw[8 : 8 + length])["logits"]
    assert tensor["shape"] == [2, 40, 512]
    assert len(raw) == 8 + length + 2 * 40 * 512 * 4


def test_run_is_the_same_with_drafts_slots_replay_and_another_copy_of_the_binary(tmp_path):
    arguments = ["run", "-p", "Once upon a time", "--max-tokens", 24, "--temperature", 0]
    trace = tmp_path / "trace.bin"
    expected = report(*arguments, "--router-trace", trace)["text"]
    assert trace.stat().st_size > 0
    drafts = '{"method": "ngram", "num_speculative_tokens": 4}'
    assert report(*arguments, "--speculative-config", drafts)["text"] == expected
    assert report(*arguments, "--expert-slots", 7)["text"] == expected
    assert report(*arguments, "--routing", f"replay:{trace}")["text"] == expected
    # The binary alone, elsewhere, holds the model.
    copy = shutil.copy(BINARY, tmp_path / "sluice")
    done = subprocess.run(
        [copy, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)["text"] == expected


def test_run_reads_standard_input_and_stops_at_a_string():
    done = sluice("run", "--max-tokens", 40, "--temperature", 0, "--stop", "said", stdin="Once upon")
    assert done.returncode == 0
    assert done.stdout.strip() != "" and "said" not in done.stdout


def test_sampling_is_repeated_by_its_seed():
    arguments = ["run", "-p", "The king", "--max-tokens", 20, "--temperature", 1]
    first = report(*arguments, "--seed", 7)["text"]
    assert report(*arguments, "--seed", 7)["text"] == first
    assert report(*arguments, "--seed", 8)["text"] != first


def test_chat_answers_each_line():
    done = sluice("chat", "--max-tokens", 12, "--seed", 1, stdin="Tell me a story about a fox\nGo on\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 20


def test_flags_stand_in_a_yaml_file_and_the_command_line_wins(tmp_path):
    config = tmp_path / "flags.yaml"
    config.write_text("max-tokens: 5\ntemperature: 0\nprompt: Once upon\nignore-eos: true\n")
    assert report("run", "--config", config)["completion_tokens"] == 5
    assert report("run", "--config", config, "--max-tokens", 9)["completion_tokens"] == 9
    config.write_text("no-such-flag: 1\n")
    refused(sluice("run", "--config", config), 2, "no-such-flag")
    refused(sluice("run", "--config", tmp_path / "absent.yaml"), 1, "absent.yaml")


def test_topology_runs_with_random_weights(tmp_path):
    topology = tmp_path / "tiny.yaml"
    topology.write_text(
        "model_type: qwen3_moe\nvocab_size: 512\nhidden_size: 128\nnum_hidden_layers: 2\n"
        "num_attention_heads: 2\nnum_key_value_heads: 1\nhead_dim: 64\nintermediate_size: 128\n"
        "moe_intermediate_size: 64\nnum_experts: 8\nnum_experts_per_tok: 2\n"
        "max_position_embeddings: 256\nnorm_topk_prob: true\n"
    )
    result = report(
        "bench", "latency", "--topology", topology, "--input-len", 8, "--output-len", 4,
        "--repeats", 1, "--routing", "uniform:3",
    )
    assert result["random_weights"] is True
    assert result["distinct_experts_per_layer"] == 2
    assert len(result["decode_step_s"]) == 3


def test_dummy_weights_of_a_true_config_cut_to_two_layers():
    result = report(
        "bench", "latency", ROOT / "configs/models/Qwen1.5-MoE-A2.7B", "--load-format", "dummy",
        "--hf-overrides", '{"num_hidden_layers": 1, "vocab_size": 1024}', "--input-len", 4,
        "--output-len", 2, "--repeats", 1,
    )
    assert result["decode_tokens_per_s"] > 0


def test_kv_cache_benchmark_compares_both_ways():
    result = report(
        "bench", "kv-cache", "--batch-size", 2, "--input-len", 32, "--output-len", 8,
        "--repeats", 1,
    )
    assert result["ratio"] > 1


def test_doctor_describes_machine_and_model():
    result = report("doctor")
    assert result["machine"]["cores"] >= 1
    assert result["model"]["parameters"] == 6975488
    assert result["model"]["memory"]["float32"]["fits"] is True


@pytest.mark.parametrize("command", ["serve", "run", "chat", "verify", "doctor"])
def test_help_names_the_flags(command):
    done = sluice(command, "--help")
    assert done.returncode == 0
    assert "--max-model-len" in done.stdout


def test_wrong_usage_exits_with_2():
    refused(sluice("nope"), 2)
    refused(sluice("serve", "--port", "99999"), 2, "port")
    refused(sluice("run", "--dtype", "fp3", "-p", "x"), 2, "dtype")
    refused(sluice("run", "--max-model-len", 5000, "-p", "x"), 2, "2048")
    refused(sluice("run", "-p", "word " * 4000), 2, "4002 tokens", "2048")
    refused(sluice("run", "--temperature", -1, "-p", "x"), 2, "temperature")
    refused(sluice("run", "--routing", "magic", "-p", "x"), 2, "magic")
    refused(sluice("run", "--expert-slots", 1, "-p", "x"), 2, "expert-slots")
    refused(sluice("run", "--kv-cache-memory", "lots", "-p", "x"), 2, "lots")


def test_a_wrong_folder_is_named(tmp_path):
    refused(sluice("verify", tmp_path / "absent"), 1, "absent", "not a folder")
    refused(sluice("verify", tmp_path), 1, "config.json")
    (tmp_path / "config.json").write_text((GOLDEN / "qwen3_moe/config.json").read_text())
    refused(sluice("verify", tmp_path), 1, "safetensors")


def test_a_damaged_file_is_named(checkpoint):
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(sluice("verify", checkpoint), 1, "model.safetensors")
    weights.write_bytes(b"\xff" * 64)
    refused(sluice("verify", checkpoint), 1, "model.safetensors")
    weights.write_bytes(whole.replace(b"model.norm.weight", b"model.morn.weight"))
    refused(sluice("verify", checkpoint), 1, "model.norm.weight")
    weights.write_bytes(whole)
    (checkpoint / "golden.safetensors").write_bytes(b"")
    refused(sluice("verify", checkpoint), 1, "golden.safetensors")


def test_unknown_families_and_options_are_named(checkpoint):
    edit_config(checkpoint, model_type="gpt_oss")
    refused(sluice("verify", checkpoint), 1, "gpt_oss", "qwen3_moe")
    edit_config(checkpoint, model_type="qwen3_moe", hidden_act="gelu")
    refused(sluice("verify", checkpoint), 1, "hidden_act", "gelu")
    edit_config(checkpoint, hidden_act="silu", hidden_size=128)
    refused(sluice("verify", checkpoint), 1, "shape")


def test_options_of_other_families_are_refused_not_ignored(checkpoint):
    edit_config(checkpoint, clip_qkv=8.0)
    refused(sluice("verify", checkpoint), 1, "clip_qkv")


def test_config_goes_behind_the_subcommand_wherever_it_stands(tmp_path):
    config = tmp_path / "flags.yaml"
    config.write_text('max-tokens: 3\nprompt: "true"\nignore-eos: true\n')
    done = sluice("--log-level", "warning", "run", "--config", config, "--json")
    assert json.loads(done.stdout)["completion_tokens"] == 3, done.stderr
    config.write_text("batch-size: 2\ninput-len: 4\noutput-len: 4\nrepeats: 1\n")
    assert report("bench", "latency", "--config", config)["batch"] == 2


def test_chat_forgets_what_no_longer_fits():
    lines = "hi\n" * 6
    done = sluice("chat", "--seed", 1, "--max-model-len", 64, stdin=lines)
    assert done.returncode == 0, done.stderr


def test_a_signal_while_loading_ends_the_process():
    process = subprocess.Popen(
        [BINARY, "serve", "--port", "0", "--load-format", "dummy", "--hf-overrides",
         '{"num_hidden_layers": 600}'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(0.4)
    process.terminate()
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode in (0, 128 + 15)
    assert process.returncode != 0 or b"listening" in stdout


def test_too_little_memory_is_said_before_loading():
    done = sluice("bench", "latency", ROOT / "configs/models/Qwen3-30B-A3B", "--load-format",
                  "dummy", "--hf-overrides", '{"num_hidden_layers": 600}')
    refused(done, 1, "needs", "available", "--expert-slots")


def test_no_tokenizer_is_said():
    done = sluice("serve", GOLDEN / "qwen3_moe", "--port", 0)
    refused(done, 1, "tokenizer")


def test_a_foreign_trace_is_refused(tmp_path):
    trace = tmp_path / "trace.bin"
    trace.write_bytes(b"not a trace at all, but long enough to be read as one")
    refused(sluice("run", "-p", "x", "--routing", f"replay:{trace}"), 1, "trace.bin")


def test_a_trace_of_another_model_is_refused_before_it_runs(tmp_path):
    trace = tmp_path / "trace.bin"
    made = sluice("run", "-p", "Once", "--max-tokens", 2, "--router-trace", trace)
    assert made.returncode == 0 and trace.exists(), made.stderr
    other = ["--hf-overrides", '{"num_experts_per_tok": 1}', "--load-format", "dummy"]
    done = sluice("run", "-p", "Once", *other, "--routing", f"replay:{trace}")
    refused(done, 2, "trace.bin", "experts a token", "the model has 1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-p", "Once", "--max-tokens", "4"],
        ["run", "-p", "Once", "--max-tokens", "4", "--json"],
        ["bench", "latency", "--input-len", "4", "--output-len", "2", "--json"],
        ["doctor", "--json"],
        ["--help"],
    ],
)
def test_output_that_cannot_be_written_is_an_error(arguments):
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            [BINARY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1, done.stderr
    assert "standard output could not be written" in done.stderr


def test_the_page_of_flags_has_every_flag():
    script = ROOT / "tools/docs/make_flags.py"
    made = subprocess.run(
        [sys.executable, script, BINARY], capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "docs/FLAGS.md").read_text()
    # The wording of help differs between versions of the parser's library, the flags do not.
    flags = [sorted(re.findall(r"^ *(?:-\w,)?(--[a-z][a-z-]+)", text, re.M)) for text in (made, page)]
    assert flags[0] == flags[1], f"run {script.name}"
    assert len(flags[0]) > 100

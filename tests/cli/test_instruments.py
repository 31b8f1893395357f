"""Traces, plans and studies from the command line."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
MODELS = ROOT / "configs/models"
PROFILES = ROOT / "configs/profiles"


def sluice(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def report(*arguments):
    return json.loads(sluice(*arguments, "--json"))


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "markov.trace"
    sluice("trace", "synth", path, "--source", "markov:0.8:3", "--layers", 6, "--experts", 32,
           "--top-k", 4, "--sequences", 3, "--steps", 50)
    return path


def test_a_synthetic_trace_says_what_it_is(trace):
    info = report("trace", "info", trace)
    assert info["records"] == 6 * 3 * 50
    assert (info["layers"], info["experts"], info["top_k"]) == (6, 32, 4)
    assert (info["source"], info["seed"]) == ("markov:0.8:3", 3)
    assert (info["steps"], info["sequences"], info["last_position"]) == (50, 3, 49)
    assert info["bytes"] == trace.stat().st_size
    assert "markov:0.8:3" in sluice("trace", "info", trace)


def test_csv_and_back_is_the_same_trace(trace, tmp_path):
    sluice("trace", "convert", trace, tmp_path / "t.csv")
    sluice("trace", "convert", tmp_path / "t.csv", tmp_path / "t.trace")
    assert (tmp_path / "t.trace").read_bytes() == trace.read_bytes()
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 2 + 6 * 3 * 50
    assert lines[1].startswith("step,sequence,position,layer,expert_0")


def test_record_runs_a_model_over_prompts(tmp_path):
    path = tmp_path / "run.trace"
    sluice("run", "-p", "Once upon a time", "--max-tokens", 8, "--temperature", 0, "--router-trace", path)
    recorded = tmp_path / "recorded.trace"
    said = sluice("trace", "record", "-p", "Once upon a time", "--max-tokens", 8, "--temperature", 0, "--out", recorded)
    assert recorded.read_bytes() == path.read_bytes()
    assert "8 made" in said and str(recorded.stat().st_size) in said


def test_record_cuts_prompts_from_a_text(tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("The fox went out on a chilly night. " * 200)
    path = tmp_path / "book.trace"
    sluice("trace", "record", "--text", text, "--prompt-tokens", 50, "--num-prompts", 3, "--max-tokens", 4,
           "--ignore-eos", "--out", path)
    info = report("trace", "info", path)
    assert info["sequences"] == 3 and 50 + 4 - 2 <= info["last_position"] <= 50 + 4
    # The last token of each answer is not run.
    assert info["records"] == info["routed_layers"] * 3 * (info["last_position"] + 1)


def test_a_recorded_run_can_be_looked_into(tmp_path):
    path = tmp_path / "run.trace"
    sluice("run", "-p", "Once upon a time", "--max-tokens", 8, "--router-trace", path)
    info = report("trace", "info", path)
    assert (info["model"], info["source"]) == ("storyteller", "model")
    assert info["steps"] >= 8


def test_what_is_not_a_trace_is_refused(trace, tmp_path):
    assert "no such file" in sluice("trace", "info", tmp_path / "absent", code=1)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF" + bytes(100))
    assert "does not begin as a router trace" in sluice("trace", "info", foreign, code=1)
    cut = tmp_path / "cut.trace"
    cut.write_bytes(trace.read_bytes()[:-7])
    assert "ends within a record" in sluice("trace", "info", cut, code=1)
    assert "is CSV, named .csv" in sluice("trace", "convert", trace, tmp_path / "x", code=2)
    assert "drifting:POSITIONS" in sluice(
        "trace", "synth", tmp_path / "x", "--source", "drifting:0", code=2)
    assert "top_k 9" in sluice(
        "trace", "synth", tmp_path / "x", "--source", "uniform", "--experts", 8, "--top-k", 9, code=2)
    assert not (tmp_path / "x").exists()


def test_theory_prints_the_expected_experts():
    expected = [1 - (1 - 8 / 128) ** n for n in (1, 2, 4, 8, 16, 32, 64, 128)]
    rows = report("plan", "theory")["rows"]
    for row, share in zip(rows, expected, strict=True):
        assert row["distinct_experts"] == pytest.approx(128 * share)
        assert row["step_ms"] == pytest.approx(48 * 128 * share * 0.387)
    table = sluice("plan", "theory")
    assert "       16              82.4     1531.1      10.5     1.55x\n" in table
    assert "sequences" in table and "128.0" in table
    assert "1 to all of its experts" in sluice("plan", "theory", "--top-k", 200, code=2)


def test_a_machines_profile_is_what_plans_read(tmp_path):
    path = tmp_path / "here.json"
    table = sluice("profile", "--threads", 1, "--disk-dir", tmp_path, "--rows", 4, "--out", path)
    assert "host.bandwidth_bytes_per_s" in table and "one expert" in table
    assert "host memory to host memory" in table
    profile = json.loads(path.read_text())
    assert profile["origin"] == "measured" and "1 threads" in profile["source"]
    layer = profile["layer"]
    assert (layer["model"], layer["rows"], layer["experts"]) == ("storyteller", 4, 16)
    times = [layer[f"{part}_{what}"] for part in ("attention", "gate", "expert") for what in ("s", "load_s")]
    assert all(0 < seconds < 10 for seconds in times)
    assert [p.name for p in tmp_path.iterdir()] == ["here.json"]

    theory = report("plan", "theory", "--hardware", path, "--sequences", 1)
    assert theory["expert_ms"] == pytest.approx(1e3 * layer["expert_load_s"])
    assert theory["layer_ms"] == pytest.approx(1e3 * (layer["attention_s"] + layer["gate_s"]))
    assert (theory["experts"], theory["top_k"], theory["layers"]) == (16, 4, 6)
    assert "excludes" in sluice("plan", "theory", "--hardware", path, "--experts", 8, code=2)
    assert "no latencies of a layer" in sluice(
        "plan", "theory", "--hardware", PROFILES / "dgx-h100.json", code=2)
    assert "has no gpu.bandwidth" in sluice(
        "plan", "offload", MODELS / "OLMoE-1B-7B-0924", "--hardware", path, "--vram-budget", "8GB", code=2)


def test_offload_chooses_and_says_what_bounds():
    plan = report("plan", "offload", MODELS / "Qwen3-30B-A3B", "--hardware",
                  PROFILES / "rtx-4090-desktop.json", "--context", 1024)
    assert plan["best"]["bound"] == "link"
    assert plan["best"]["sequences"] == plan["memory_limit"]
    assert plan["best"]["tokens_per_s"] >= max(step["tokens_per_s"] for step in plan["steps"])
    assert plan["hides_link"] is None and not plan["cpu_experts"]
    shared = report("plan", "offload", MODELS / "Qwen3-30B-A3B", "--hardware",
                    PROFILES / "rtx-4090-desktop.json", "--context", 1024, "--cpu-experts")
    assert shared["best"]["bound"] == "host memory" and shared["cpu_experts"]
    assert shared["best"]["tokens_per_s"] > 1.5 * plan["best"]["tokens_per_s"]
    table = sluice("plan", "offload", MODELS / "Qwen3-30B-A3B", "--hardware",
                   PROFILES / "h100-16-cores.json", "--vram-budget", "12GB")
    assert "<- best" in table and "measured figures" in table


def test_offload_takes_hit_rates_from_a_trace(tmp_path):
    path = tmp_path / "q.trace"
    sluice("trace", "synth", path, "--source", "zipf:1.2", "--steps", 30)
    plan = report("plan", "offload", MODELS / "Qwen3-30B-A3B", "--hardware",
                  PROFILES / "rtx-4090-desktop.json", "--router-trace", path)
    rates = plan["trace"]
    assert rates["lru"] <= rates["belady"] and rates["lfu"] <= rates["belady"]
    assert rates["slots"] == plan["best"]["cached_experts"]
    other = tmp_path / "other.trace"
    sluice("trace", "synth", other, "--source", "uniform", "--experts", 8, "--top-k", 2, "--steps", 1)
    assert "2 of 8 experts, the model has 8 of 128" in sluice(
        "plan", "offload", MODELS / "Qwen3-30B-A3B", "--hardware",
        PROFILES / "rtx-4090-desktop.json", "--router-trace", other, code=2)


def test_offload_says_what_is_missing_or_does_not_fit(tmp_path):
    def offload(*arguments, model="Qwen3-30B-A3B", profile=PROFILES / "rtx-4090-desktop.json", code):
        return sluice("plan", "offload", MODELS / model, "--hardware", profile, *arguments, code=code)

    said = offload("--vram-budget", "3GB", code=1)
    least = int(re.search(r"smallest that works .*?--vram-budget (\d+) ", said).group(1))
    offload("--vram-budget", least, code=0)
    assert str(least) in offload("--vram-budget", least - 1, code=1)
    assert "short by 289 MB" in offload("--vram-budget", "3GB", "--expert-bits", 4.5, code=1)
    assert "no host.memory_bytes: say --ram-budget" in offload(
        profile=PROFILES / "mi300x.json", code=2)
    assert "has no host.bandwidth_bytes_per_s" in offload(
        "--ram-budget", "100GB", profile=PROFILES / "mi300x.json", code=2)
    assert "cannot be read" in offload(profile=tmp_path / "absent.json", code=1)
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"name": "x", "origin": "published", "source": "", "gpu": {"memory": 1}}')
    assert "gpu.memory is not known" in offload(profile=damaged, code=2)


def test_load_balance_of_a_trace_and_of_the_same_synthetic_run(trace):
    shape = ["--layers", 6, "--experts", 32, "--top-k", 4, "--sequences", 3, "--steps", 50]
    recorded = report("study", "load-balance", trace, "--ranks", 4)
    drawn = report("study", "load-balance", "--source", "markov:0.8:3", *shape, "--ranks", 4)
    assert recorded == drawn
    assert [layer["layer"] for layer in recorded["layers"]] == list(range(6))
    assert all(layer["experts"]["total"] == 600 for layer in recorded["layers"])
    assert len(recorded["windows"]) == 50 and recorded["steps_per_window"] == 1
    assert recorded["coactivation"]["followed_share"] == 1.0
    assert recorded["coactivation"]["across"][0]["tokens"] > 0
    table = sluice("study", "load-balance", trace, "--ranks", 4, "--window", 10)
    assert "windows of 10 steps" in table and "replicate" in table


def test_load_balance_in_time_of_a_machine():
    arguments = ["study", "load-balance", "--source", "zipf:1.2", "--steps", 10, "--model",
                 MODELS / "Qwen3-30B-A3B", "--hardware", PROFILES / "dgx-h100.json"]
    timed = report(*arguments, "--rank-memory", "10GB")
    assert timed["slots_per_rank"] == 22  # 48 layers of 9.44 MB
    assert timed["expert_weights_s"] == pytest.approx(3 * 2048 * 768 * 2 / 3.35e12)
    assert timed["placements"][0]["expert_s"] < 0.01
    assert "ms/step" in sluice(*arguments)


def test_load_balance_refuses_what_it_cannot_study(trace, tmp_path):
    assert "either a trace, or a distribution" in sluice("study", "load-balance", code=2)
    assert "either a trace" in sluice("study", "load-balance", trace, "--source", "uniform", code=2)
    assert "needs --model" not in sluice("study", "load-balance", trace)
    assert "need --model" in sluice(
        "study", "load-balance", trace, "--hardware", PROFILES / "dgx-h100.json", code=2)
    assert "a rank has slots for 1" in sluice(
        "study", "load-balance", trace, "--slots-per-rank", 1, code=2)
    assert "none are left to judge" in sluice(
        "study", "load-balance", trace, "--learn-steps", 50, code=2)
    counts = tmp_path / "counts.csv"
    counts.write_text("1,2,3\n1,2\n")
    assert "line 2 is not 3 counts" in sluice("study", "load-balance", "--counts", counts, code=1)
    counts.write_text("")
    assert "no load to study" in sluice("study", "load-balance", "--counts", counts, code=2)


def test_prefetch_by_table_size_and_look_ahead(trace):
    arguments = ["study", "prefetch", "--source", "markov:0.8:3", "--layers", 6, "--experts", 32,
                 "--top-k", 4, "--sequences", 3, "--steps", 400, "--slots", 8, 16, "--look-ahead", 1, 3,
                 "--row-entries", 0, 4]
    tables = report(*arguments)["tables"]
    assert [(t["look_ahead"], t["row_entries"]) for t in tables] == [(1, 0), (1, 4), (3, 0), (3, 4)]
    for table in tables:
        assert table["predicted_layers"] == 400 * (6 - table["look_ahead"])
        for hits, slots in zip(table["hits"], (8, 16), strict=True):
            assert hits["slots"] == slots
            assert hits["frequency"] - 0.01 < hits["table"] <= hits["best"] <= 1
    assert tables[0]["hits"][0]["table"] > tables[0]["hits"][0]["frequency"] + 0.05
    assert tables[1]["table_bytes"] < tables[0]["table_bytes"]
    table = sluice("study", "prefetch", trace, "--slots", 8)
    assert "look ahead" in table and "markov:0.8:3" in table
    assert "either a trace, or a distribution" in sluice("study", "prefetch", code=2)


def place(model, *arguments, profile="dgx-h100", code=0):
    done = subprocess.run(
        [BINARY, "plan", "placement", MODELS / model, "--hardware", PROFILES / f"{profile}.json",
         *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code in (0, 1) and done.stdout else done.stderr


def test_a_model_that_denoises_is_placed_and_not_run():
    for model, gigabytes in (("LLaDA-8B-Instruct", 16.03), ("LLaDA-MoE-7B-A1B-Instruct", 14.71)):
        plan = place(model, "--gpus", 1, "--max-num-seqs", 4)
        assert plan["weight_bits"] == 16
        assert plan["recommended"]["gpu_bytes"]["weights"] == pytest.approx(gigabytes * 1e9, rel=1e-3)
        table = sluice("plan", "placement", MODELS / model, "--hardware", PROFILES / "dgx-h100.json",
                       "--max-num-seqs", 4)
        assert "figures of decoding are not its own" in table
        layers = "num_hidden_layers" if "MoE" in model else "n_layers"
        dummy = (MODELS / model, "--load-format", "dummy", "--hf-overrides", json.dumps({layers: 1}))
        assert "cannot be run" in sluice("bench", "latency", *dummy, code=1)
        examined = subprocess.run([BINARY, "doctor", *map(str, dummy), "--json"], capture_output=True, text=True,
                                  timeout=60, check=False)
        assert examined.returncode == 1
        assert any("denoising" in problem for problem in json.loads(examined.stdout)["model"]["problems"])


def test_placement_compares_strategies():
    plan = place("Qwen3-30B-A3B", "--gpus", 8)
    names = [strategy["strategy"] for strategy in plan["strategies"]]
    assert names == ["data", "tensor", "expert", "data+expert", "hybrid", "hybrid", "replicated"]
    best = plan["strategies"][plan["best"]]
    assert best["fits"] and best["gpu_bytes"]["total"] <= 0.9 * 80e9
    rates = [s["decode"]["tokens_per_s"] for s in plan["strategies"] if s.get("fits")]
    assert best["decode"]["tokens_per_s"] == max(rates)
    assert plan["recommended"] == best
    assert plan["queue_depth"] in (4, 8, 16, 32, 64, 128, 256)
    table = sluice("plan", "placement", MODELS / "Qwen3-30B-A3B", "--hardware",
                   PROFILES / "dgx-h100.json", "--gpus", 16, "--hosts", 2)
    assert "<- best" in table and "hybrid tp8 dp2" in table


def test_placement_says_what_does_not_fit():
    plan = place("DeepSeek-V3", "--gpus", 8, code=1)
    assert plan["best"] is None
    assert plan["reason"].startswith("does not fit: short by ")
    fits = place("DeepSeek-V3", "--gpus", 8, profile="mi300x")
    assert fits["best"] is not None
    assert "network.bandwidth_bytes_per_s" in place(
        "DeepSeek-V3", "--gpus", 16, "--hosts", 2, profile="mi300x", code=2)
    assert "do not divide over 3 hosts" in place("DBRX", "--gpus", 8, "--hosts", 3, code=2)


def test_placement_takes_imbalance_from_a_trace(tmp_path):
    path = tmp_path / "z.trace"
    sluice("trace", "synth", path, "--source", "zipf:1.3", "--steps", 4, "--sequences", 64)
    plan = place("Qwen3-30B-A3B", "--gpus", 8, "--router-trace", path)
    assert plan["imbalance"] > plan["replicated_imbalance"] > 1
    assert "recorded with 128 experts" in place("DBRX", "--router-trace", path, code=2)

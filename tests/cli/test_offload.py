"""Experts that do not fit: budgets, profiles and the offload benchmark, as the command line gives them."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
PROMPT = ["-p", "Once upon a time", "--max-tokens", "8", "--temperature", "0", "--json"]


def sluice(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def text(*arguments):
    return json.loads(sluice("run", "--device", "cpu", *PROMPT, *arguments))["text"]


def smallest(*arguments, flag="--vram-budget"):
    """The budget that an error names as the smallest that works."""
    said = sluice("run", "--device", "cpu", *PROMPT, *arguments, code=1)
    return int(re.search(rf"smallest that works .*?{flag} (\d+) ", said).group(1))


@pytest.mark.parametrize("more", [[], ["--dtype", "float32"], ["--max-model-len", "256"]])
def test_the_smallest_budget_works_and_not_a_byte_less(more):
    least = smallest("--vram-budget", "1MB", *more)
    assert text("--vram-budget", least, *more) == text(*more)
    assert smallest("--vram-budget", least - 1, *more) == least


def test_the_smallest_host_budget_works_and_not_a_byte_less():
    slots = ["--expert-slots", 12]
    least = smallest(*slots, "--ram-budget", "1KB", flag="--ram-budget")
    assert text(*slots, "--ram-budget", least) == text()
    assert smallest(*slots, "--ram-budget", least - 1, flag="--ram-budget") == least


def test_a_resident_model_has_a_smallest_budget_too():
    flags = ["--offload-policy", "resident", "--vram-budget"]
    least = smallest(*flags, "100MB")
    assert text(*flags, least) == text()
    assert smallest(*flags, least - 1) == least


def test_doctor_says_the_slots_of_a_budget():
    def doctor(*arguments):
        report = json.loads(sluice("doctor", "--device", "cpu", "--json", *arguments))
        return report["model"]["memory"]["bfloat16"]

    least = smallest("--vram-budget", "1MB")
    slot = 3 * 256 * 64 * 2
    needs = doctor("--vram-budget", least + 10 * slot, "--max-num-seqs", 1)
    assert needs["fits"] and needs["expert_slots"] == 12 and needs["experts"] == 96
    assert needs["total"] == least + 10 * slot
    needs = doctor("--vram-budget", least + 10 * slot, "--max-num-seqs", 1, "--ram-budget", "5MB")
    assert needs["host_expert_slots"] == 5_000_000 // slot
    assert needs["experts_on_host"] == 5_000_000 // slot * slot
    assert needs["total"] == least + 10 * slot + needs["experts_on_host"]


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--expert-slots", "1"], "while the next arrives"),
        (["--expert-slots", "4", "--vram-budget", "1GB"], "give one of them"),
        (["--ram-budget", "1GB"], "give --vram-budget or --expert-slots too"),
        (["--link-bandwidth", "1GB"], "give --vram-budget or --expert-slots too"),
        (["--expert-slots", "4", "--offload-policy", "resident"], "leave --expert-slots out"),
        (["--expert-slots", "4", "--cpu-experts"], "behind a link"),
        (["--expert-slots", "4", "--cpu-experts", "--offload-policy", "serial"], "not of serial"),
        (["--vram-budget", "many"], "not a size of memory"),
        (["--offload-policy", "hope"], "--offload-policy"),
    ],
)
def test_flags_that_contradict_are_refused(flags, word):
    assert word in sluice("run", "--device", "cpu", "-p", "x", *flags, code=2)


def test_a_dense_model_has_nothing_to_offload():
    dense = ROOT / "tests/golden/llama_dense"
    said = sluice("bench", "latency", dense, "--device", "cpu", "--vram-budget", "1GB", code=2)
    assert "has no experts" in said


TOY = ["--device", "cpu", "--input-len", 4, "--warmup-len", 2, "--output-len", 6, "--json"]


def bench(*arguments, code=0):
    said = sluice("bench", "offload", *TOY, *arguments, code=code)
    return json.loads(said) if code == 0 else said


def rows_of(result):
    (budget,) = result["budgets"]
    return {(row["name"], row["sequences"]): row for row in budget["rows"]}


def test_the_toy_compares_policies_and_all_make_the_same_tokens():
    result = bench("--n", 4, "--compare", "--check")
    rows = rows_of(result)
    assert rows.keys() == {("pipeline", 1), ("pipeline", 4), ("on-demand", 4), ("serial", 4),
                           ("serial", 1), ("resident", 4)}
    assert result["checked"] and not any("tokens_differ" in row for row in rows.values())
    for (name, n), row in rows.items():
        experts = row["experts"]
        assert experts["requests"] == experts["hits"] + experts["misses"] + experts["cpu"]
        assert row["tokens_per_s"] == pytest.approx(1e3 * n / row["step_ms"])
        assert row["share_of_bound"] == pytest.approx(row["tokens_per_s"] / row["bound_tokens_per_s"])
        if name == "resident":
            assert row["link_bytes"] == 0 and row["expert_slots"] == 96
            continue
        assert row["expert_slots"] == 24
        assert 0 <= row["link_busy_share"] <= 1.05 and row["link_bytes"] > 0
        assert len(row["layers"]) == 6
        assert row["link_bytes_per_s"] <= 1.05e9  # the toy's link
    # A serial step brings every expert of every layer that has no slot.
    assert rows["serial", 4]["link_copies"] >= 6 * (96 - 24) * 0.9
    assert rows["pipeline", 4]["over_one"] == pytest.approx(
        rows["pipeline", 4]["tokens_per_s"] / rows["pipeline", 1]["tokens_per_s"])


def test_a_sweep_stands_beside_the_theory_and_the_solver():
    result = bench("--sweep", "1..4", "--link-bandwidth", "200MB")
    (budget,) = result["budgets"]
    rows = rows_of(result)
    assert {("pipeline", 1), ("pipeline", 2), ("pipeline", 4), ("serial", 1)} <= rows.keys()
    # 4 of 16 experts: n / (E(1 - (1 - k/E)^n)) over that of one.
    assert rows["pipeline", 4]["theory_over_one"] == pytest.approx(4 * 4 / (16 * (1 - 0.75**4)))
    assert rows["pipeline", 1]["theory_over_one"] == 1
    solver = budget["solver"]
    assert 1 <= solver["sequences"] <= 4 and ("pipeline", solver["sequences"]) in rows
    assert 0 < solver["share_of_best"] <= 1


def test_an_ablation_adds_a_step_a_row():
    rows = bench("--n", 2, "--ablation", "--check")["budgets"][0]["rows"]
    assert [row["name"] for row in rows] == [
        "pipeline", "pipeline", "on-demand", "on-demand", "+ overlap", "+ prefetch", "+ ready first",
        "+ CPU experts"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["+ overlap"]["experts"]["prefetched"] == 0
    assert by_name["on-demand"]["eviction"] == "lru"


def test_caps_are_budgets_one_after_the_other():
    said = bench("--n", 1, "--caps", "1MB", code=1)
    least = int(re.search(r"smallest that works .*?--vram-budget (\d+) ", said).group(1))
    budgets = bench("--n", 1, "--caps", f"{least},{least + 1_000_000}")["budgets"]
    assert [budget["vram_budget"] for budget in budgets] == [least, least + 1_000_000]
    slots = [budget["rows"][0]["expert_slots"] for budget in budgets]
    assert slots[1] - slots[0] == 1_000_000 // (3 * 256 * 64 * 2)
    assert slots[0] == 2


@pytest.mark.parametrize("sweep", ["0..4", "4..1", "1,,2", "x", "1..99999"])
def test_a_sweep_is_checked(sweep):
    assert "expected FIRST..LAST" in bench("--sweep", sweep, code=2)


def profile(tmp_path, **changes):
    """A profile of this machine, changed."""
    hardware = bench("--n", 1)["hardware"]
    for key, value in changes.items():
        if isinstance(value, dict):
            hardware.setdefault(key, {}).update(value)
        else:
            hardware[key] = value
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(hardware))
    return path


def test_a_profile_of_this_machine_is_taken(tmp_path):
    path = profile(tmp_path, name="mine")
    assert bench("--n", 1, "--hardware", path)["hardware"]["name"] == "mine"


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"device": "Another GPU"}, "its device is Another GPU"),
        ({"host": {"memory_bytes": 1e15}}, "host.memory_bytes is 1.00 PB"),
        ({"link": {"bandwidth_bytes_per_s": 9e12}}, "link.bandwidth_bytes_per_s is 9.00 TB/s"),
    ],
)
def test_a_profile_of_another_machine_is_refused(tmp_path, changes, word):
    path = profile(tmp_path, **changes)
    said = bench("--n", 1, "--hardware", path, code=2)
    assert "another machine" in said and word.split(" is ")[0] in said and "sluice profile" in said
    served = sluice("serve", "--device", "cpu", "--port", 0, "--expert-slots", 12, "--link-bandwidth",
                    "1GB", "--hardware", path, code=2)
    assert "another machine" in served


def test_hardware_alone_has_no_reader(tmp_path):
    said = sluice("serve", "--device", "cpu", "--port", 0, "--hardware", profile(tmp_path), code=2)
    assert "give --vram-budget too" in said


def serve_log(*arguments):
    """What a server logs until it listens."""
    process = subprocess.Popen(
        [BINARY, "serve", "--device", "cpu", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("listening"):
            break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    return log


def test_a_server_says_how_many_sequences_it_runs_and_why():
    flags = ["--expert-slots", 12, "--link-bandwidth", "100MB", "--ram-budget", "1GB"]
    log = serve_log(*flags)
    said = re.search(r"offload: (\d+) sequences at once .* bound by the ([\w ]+),", log)
    assert 1 < int(said.group(1)) <= 256 and said.group(2) in ("link", "host memory", "GPU memory", "GPU compute")
    prompt = re.search(r"all (\d+) experts without a slot, ([\d.]+) MB over the link in ([\d.]+) s", log)
    assert int(prompt.group(1)) == 96 - (12 - 2)  # two slots are for what comes and goes
    assert float(prompt.group(3)) == pytest.approx(float(prompt.group(2)) / 100, rel=0.3)
    assert "sequences at once" not in serve_log(*flags, "--max-num-seqs", 8)
    assert "sequences at once" not in serve_log()


def test_a_server_that_is_told_how_long_a_step_may_take_runs_fewer_sequences():
    flags = ["--expert-slots", 12, "--link-bandwidth", "20MB", "--ram-budget", "1GB"]

    def choice(*more):
        """Sequences, ms a step, and steps that a prompt takes."""
        log = serve_log(*flags, *more)
        said = re.search(r"offload: (\d+) sequences at once .* a step of ([\d.]+) ms bound by the link", log)
        return int(said.group(1)), float(said.group(2)), int(re.search(r"takes (\d+) steps for them", log).group(1))

    most, longest, _ = choice()
    sequences, step, groups = choice("--max-step-ms", 0.7 * longest)
    assert 1 <= sequences < most and step < 0.7 * longest and 2 < groups <= 6
    # What is given is the most that there may be, and then prompts may take fewer steps.
    fewer, step, fewer_groups = choice("--max-step-ms", 0.7 * longest, "--max-num-seqs", 1)
    assert fewer == 1 and step < 0.7 * longest and 2 <= fewer_groups <= groups
    said = sluice("serve", "--device", "cpu", "--port", 0, *flags, "--max-step-ms", 1, code=1)
    assert re.search(r"a step of one sequence takes [\d.]+ ms beside a prompt, bound by the link; the limit is 1.0 ms: raise it", said)
    assert "give --vram-budget too" in sluice("serve", "--device", "cpu", "--port", 0, "--max-step-ms", 100, code=2)

"""Factorial studies and predictions from the command line."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))

STUDY = """
name: small
command: plan theory
fixed: {sequences: [1, 8]}
factors:
  experts: [16, 64]
  expert-ms: [0.1, 0.4]
  work: {none: {layer-ms: 0}, some: {layer-ms: 0.5}}
responses: [rows.sequences=8.tokens_per_s, rows.0.step_ms]
repeats: 2
seed: 9
"""


def sluice(*arguments, code=0, **more):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          check=False, cwd=ROOT, **more)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_a_dry_run_prints_every_run_and_makes_nothing(study, tmp_path):
    text = sluice("study", "run", study, "--dry-run", "--out", tmp_path / "out")
    assert "full factorial design of 8 points, 2 repeats: 16 runs" in text
    assert text.count("sluice plan theory --sequences 1 --sequences 8 --experts") == 16
    assert not (tmp_path / "out").exists()
    assert text == sluice("study", "run", study, "--dry-run")


def test_runs_are_recorded_and_a_stopped_study_goes_on(study, tmp_path):
    out = tmp_path / "out"
    sluice("study", "run", study, "--out", out, "--max-runs", 5)
    first = {path.name: path.read_text() for path in (out / "runs").iterdir()}
    assert len(first) == 5
    report = json.loads(sluice("study", "run", study, "--out", out, "--json"))
    assert report["records"] == 16
    assert all((out / "runs" / name).read_text() == text for name, text in first.items())
    for point in report["points"]:
        assert (point["runs"], point["failed"]) == (2, 0)
        assert point["deviation"] == [0, 0]  # arithmetic has no noise
        experts, ms = point["factors"]["experts"], point["factors"]["expert-ms"]
        extra = 0.5 if point["factors"]["work"] == "some" else 0.0
        assert point["mean"][1] == pytest.approx(48 * (8 * ms + extra)), experts
    rows = list(csv.DictReader((out / "runs.csv").open()))
    assert [int(row["run"]) for row in rows] == list(range(1, 17))
    assert {row["status"] for row in rows} == {"ok"}
    record = json.loads((out / "runs/00001.json").read_text())
    assert record["result"]["rows"] and record["machine"]["cores"] >= 1 and record["seconds"] > 0
    study.write_text(STUDY.replace("seed: 9", "seed: 10"))
    assert "results of another design" in sluice("study", "run", study, "--out", out, code=2)


def test_what_is_killed_goes_on(study, tmp_path):
    study.write_text(STUDY.replace("repeats: 2", "repeats: 40"))
    out = tmp_path / "out"
    process = subprocess.Popen([BINARY, "study", "run", str(study), "--out", str(out)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(out.glob("runs/*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = len(list(out.glob("runs/*.json")))
    assert 3 <= made < 320
    for path in out.glob("runs/*.json"):
        json.loads(path.read_text())
    sluice("study", "run", study, "--out", out, "--max-runs", 2)
    assert len(list(out.glob("runs/*.json"))) == made + 2


def test_a_run_that_fails_does_not_end_the_study(study, tmp_path):
    study.write_text(STUDY.replace("experts: [16, 64]", "experts: [4, 64]"))  # 8 of 4 cannot be
    out = tmp_path / "out"
    told = sluice("study", "run", study, "--out", out, code=1)
    assert told.count("failed in") == 8 and told.count("ok in") == 8
    record = next(r for r in (json.loads(p.read_text()) for p in (out / "runs").iterdir())
                  if r["status"] == "failed")
    assert record["exit_code"] == 2 and "1 to all of its experts" in record["error"]


def test_results_go_under_results_dir(study, tmp_path):
    sluice("study", "run", study, "--max-runs", 1, env={**os.environ, "RESULTS_DIR": str(tmp_path / "r")})
    assert (tmp_path / "r/small/runs/00001.json").exists()


def test_impossible_studies_are_refused(study, tmp_path):
    for change, why in [
        (("[16, 64]", "[16]"), "factor experts has 1 level"),
        (("seed: 9", "generators: {work: [experts]}"), "same factor over again"),
        (("seed: 9", "generators: {work: [experts, top-k]}"), "top-k, which is no factor"),
        (("plan theory", "serve"), "prints JSON"),
        (("sequences: [1, 8]", "experts: 8"), "--experts is given by factor experts"),
        (("repeats: 2", "repeats: 2.x"), "'repeats' should be a number"),
    ]:
        study.write_text(STUDY.replace(*change))
        assert why in sluice("study", "run", study, "--dry-run", code=2), change
    assert "cannot be read" in sluice("study", "run", tmp_path / "absent.yaml", code=1)


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_the_studies_of_the_repository_can_be_run(path):
    text = sluice("study", "run", path, "--dry-run")
    runs = [line.split("sluice ", 1)[1] for line in text.splitlines() if "  sluice " in line]
    assert len(runs) >= 15
    # Flags that a command does not know are a usage error; help comes before the work.
    words = runs[0].split(" ")
    command = [word for word in words if not word.startswith("{")]
    known = sluice(*command[:2], "--help")
    for word in words:
        if word.startswith("--"):
            assert f"{word} " in known, (word, path)


def test_predictions_stay_within_the_training():
    forest = ROOT / "tests/data/predictor/forest.json"
    values = ["threads=2", "batch-size=8", "load=0.5", "dtype=bf16"]
    text = sluice("plan", "predict", forest, *values)
    assert "decode_tokens_per_s" in text and "unseen runs: off by" in text
    outside = ["threads=64", *values[1:]]
    assert "threads is 64, trained on 1 to 4" in sluice("plan", "predict", forest, *outside, code=2)
    assert "EXTRAPOLATED: threads is 64" in sluice("plan", "predict", forest, *outside, "--extrapolate")
    told = json.loads(sluice("plan", "predict", forest, *outside, "--extrapolate", "--json"))
    assert told["settings"][0]["outside"] == ["threads is 64, trained on 1 to 4"]
    assert "knows bf16, f16, f32" in sluice("plan", "predict", forest, *values[:3], "dtype=int4", code=2)
    assert "no value for dtype" in sluice("plan", "predict", forest, *values[:3], code=2)
    assert "expected FEATURE=VALUE" in sluice("plan", "predict", forest, "threads", code=2)
    best = json.loads(sluice("plan", "predict", forest, *values[1:], "--best", "threads", "--json"))
    assert best["best"] == "4" and len(best["settings"]) == 3
    assert "without a value" in sluice("plan", "predict", forest, *values, "--best", "threads", code=2)


def test_a_prefill_in_chunks():
    result = json.loads(sluice("bench", "latency", "--device", "cpu", "--input-len", 20, "--output-len", 4,
                               "--prefill-chunk", 8, "--repeats", 1, "--json"))
    assert result["prefill_chunk"] == 8 and result["decode_step_flops"] > 0

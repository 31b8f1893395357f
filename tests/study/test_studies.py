"""The programs of studies/: tables, figures, the predictor and Parquet, from the JSON that sluice writes.

They need studies/requirements.txt, which `make test` does not install; without, these tests are skipped.
"""

import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy
import pytest

pandas = pytest.importorskip("pandas")
for package in ("matplotlib", "pyarrow", "sklearn", "statsmodels"):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
sys.path.insert(0, str(ROOT / "studies"))

import analyse  # noqa: E402
import figures  # noqa: E402
import roofline  # noqa: E402
import routing_figures  # noqa: E402
import trace_table  # noqa: E402
import train_predictor  # noqa: E402
from results import Study, find  # noqa: E402


def sluice(*arguments, code=0):
    done = subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def make_results(folder, factors, speed, repeats=3, aliases=(), keep=lambda point: True):
    """A study's folder as `sluice study run` leaves it, with made-up figures."""
    (folder / "runs").mkdir(parents=True)
    design = {"format": "sluice-study", "version": 1, "name": "made-up", "aliases": list(aliases),
              "factors": [{"name": n, "levels": [{"value": v} for v in levels]}
                          for n, levels in factors.items()],
              "responses": ["speed", "times.0.ms"]}
    (folder / "study.json").write_text(json.dumps(design))
    random = numpy.random.default_rng(3)
    run = 0
    for repeat in range(repeats):
        for point, levels in enumerate(itertools.product(*factors.values())):
            chosen = dict(zip(factors, levels, strict=True))
            if not keep(chosen):
                continue
            run += 1
            value = speed(chosen) * random.lognormal(0, 0.02)
            record = {"format": "sluice-study-run", "run": run, "point": point, "repeat": repeat,
                      "factors": chosen, "status": "ok", "seconds": 1.0, "machine": {"cpu": "made-up"},
                      "result": {"speed": value, "times": [{"ms": 1000 / value}]}}
            (folder / "runs" / f"{run:05}.json").write_text(json.dumps(record))
    failed = {"run": run + 1, "status": "failed", "factors": {}, "result": None}
    (folder / "runs" / f"{run + 1:05}.json").write_text(json.dumps(failed))
    return folder


FACTORS = {"threads": [1, 2], "batch-size": [1, 16], "dtype": ["bf16", "f32"]}


def speed(point):
    return 100 * point["threads"] ** 0.8 * point["batch-size"] ** 0.5 * (0.6 if point["dtype"] == "f32" else 1)


@pytest.fixture
def study(tmp_path):
    return Study(make_results(tmp_path / "results", FACTORS, speed))


def test_paths_of_responses():
    result = {"a": {"b": 2}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, 7], "t": "3", "f": True}
    assert find(result, "a.b") == 2 and find(result, "l.2") == 7 and find(result, "l.n=y.v") == 2
    assert all(find(result, path) is None for path in ("z", "a", "a.b.c", "l.3", "l.n=z.v", "t", "f"))


def test_anova_of_a_balanced_design_is_the_textbooks(study):
    assert len(study.runs) == 24 and len(study.failed) == 1
    table, fit = analyse.anova(study, "speed", log=True)
    values = numpy.log(study.runs["speed"])
    for factor, (low, high) in FACTORS.items():
        effect = values[study.runs[factor] == high].mean() - values[study.runs[factor] == low].mean()
        assert table.loc[factor, "sum_sq"] == pytest.approx(24 / 4 * effect**2)
        assert table.loc[factor, "df"] == 1
        assert table.loc[factor, "PR(>F)"] < 1e-6
    assert table["sum_sq"].sum() == pytest.approx(((values - values.mean()) ** 2).sum())
    assert table["eta2"].sum() == pytest.approx(1)
    assert table.loc["threads x batch-size", "PR(>F)"] > 1e-4  # there is none in logarithms
    assert fit.rsquared > 0.99


def test_effects_that_a_fraction_mixes_up_are_named_so(tmp_path):
    sign = {1: -1, 2: 1, 16: 1, "bf16": -1, "f32": 1}

    def keep(point):
        return sign[point["dtype"]] == sign[point["threads"]] * (1 if point["batch-size"] == 16 else -1)

    aliases = ["threads = batch-size*dtype", "batch-size = threads*dtype", "dtype = threads*batch-size"]
    half = Study(make_results(tmp_path / "half", FACTORS, speed, aliases=aliases, keep=keep))
    table, _ = analyse.anova(half, "speed", log=True)
    assert list(table.index) == ["threads = batch-size x dtype", "batch-size = threads x dtype",
                                 "dtype = threads x batch-size", "residual"]


def test_every_table_and_figure_is_written(study, tmp_path):
    analyse.analyse(study, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    for response in ("speed", "times_0_ms"):
        for table in ("anova", "effects"):
            assert {f"{table}_{response}.csv", f"{table}_{response}.tex"} <= names
        for figure in ("main_effects", "interactions", "curve"):
            assert {f"{figure}_{response}.png", f"{figure}_{response}.svg"} <= names
    check_figures(tmp_path / "out")
    assert r"\begin{tabular}" in (tmp_path / "out/anova_speed.tex").read_text()
    points = pandas.read_csv(tmp_path / "out/points.csv")
    assert len(points) == 8 and (points["speed_count"] == 3).all()


def check_figures(folder):
    for path in folder.iterdir():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000
        elif path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_same_figure_gives_the_same_file(study, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        analyse.draw_main_effects(study, "speed", folder)
    for suffix in ("png", "svg"):
        name = f"main_effects_speed.{suffix}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert figures.file_word("a.b/c d") == "a_b_c_d"


def test_a_trained_forest_predicts_in_sluice(tmp_path):
    factors = {"threads": [1, 2, 4, 8], "batch-size": [1, 4, 16, 64], "dtype": ["bf16", "f32"]}
    study = Study(make_results(tmp_path / "results", factors, speed))
    forest, trained = train_predictor.train(study.runs, study.factors, ["speed"], "made-up", trees=20)
    assert forest["targets"][0]["cross_validated_r2"] > 0.7
    assert 0 < forest["targets"][0]["cross_validated_relative_error"] < 0.5
    path = tmp_path / "forest.json"
    path.write_text(json.dumps(forest))
    for point in study.runs.to_dict("records")[:32]:
        values = [f"{name}={point[name]}" for name in factors]
        told = json.loads(sluice("plan", "predict", path, *values, "--json"))["settings"][0]
        row = train_predictor.columns(pandas.DataFrame([point]), forest["features"])
        assert told["predictions"]["speed"]["value"] == pytest.approx(
            numpy.exp(trained["speed"].predict(row)[0]), rel=1e-12)
    best = json.loads(sluice("plan", "predict", path, "batch-size=16", "dtype=bf16", "--best", "threads",
                             "--json"))
    assert best["best"] == "8"


def test_a_program_from_the_command_line(tmp_path):
    results = make_results(tmp_path / "results", FACTORS, speed)
    for program, out in (("analyse.py", tmp_path / "out"), ("train_predictor.py", tmp_path / "f.json")):
        done = subprocess.run([sys.executable, ROOT / "studies" / program, results, "--out", out],
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "speed" in done.stdout and out.exists()


def test_figures_of_routing(tmp_path):
    report = json.loads(sluice("study", "load-balance", "--source", "zipf:1.1", "--layers", 4, "--experts", 32,
                               "--top-k", 4, "--steps", 20, "--ranks", 4, "--json"))
    for layer in report["layers"]:
        assert sum(layer["loads"]) == layer["experts"]["total"] == sum(layer["rank_loads"])
    names = routing_figures.draw(report, tmp_path)
    assert {"expert_load.png", "rank_load.svg", "placements.png", "imbalance_over_time.svg"} <= set(names)
    check_figures(tmp_path)


def test_roofline(tmp_path):
    bench = json.loads(sluice("bench", "latency", "--batch-size", 2, "--input-len", 8, "--output-len", 4,
                              "--repeats", 1, "--device", "cpu", "--json"))
    profile = {"name": "made-up", "host": {"bandwidth_bytes_per_s": 1e10, "bf16_flops_per_s": 1e12}}
    (_, intensity, flops), = roofline.points([bench])
    assert 0.1 < intensity < 100 and flops > 0
    roofline.draw(profile, [bench], tmp_path)
    check_figures(tmp_path)


def test_a_trace_through_parquet_is_the_same(tmp_path):
    sluice("trace", "synth", tmp_path / "t.trace", "--source", "zipf:1.2:3", "--layers", 3, "--steps", 7)
    sluice("trace", "convert", tmp_path / "t.trace", tmp_path / "t.csv")
    trace_table.to_parquet(tmp_path / "t.csv", tmp_path / "t.parquet")
    trace_table.to_csv(tmp_path / "t.parquet", tmp_path / "back.csv")
    sluice("trace", "convert", tmp_path / "back.csv", tmp_path / "back.trace")
    assert (tmp_path / "back.trace").read_bytes() == (tmp_path / "t.trace").read_bytes()
    with pytest.raises(SystemExit):
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        trace_table.to_parquet(tmp_path / "other.csv", tmp_path / "other.parquet")

"""The statistics of `sluice study load-balance` beside NumPy's and SciPy's."""

import json
import os
import subprocess
from pathlib import Path

import numpy
import pytest
import scipy.stats

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
RANKS = 4


def study(path, counts, *arguments):
    numpy.savetxt(path, counts, fmt="%d", delimiter=",")
    done = subprocess.run(
        [BINARY, "study", "load-balance", "--counts", path, "--ranks", str(RANKS), "--json", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def gini(loads):
    differences = numpy.abs(loads[:, None] - loads[None, :])
    return differences.sum() / (2 * len(loads) ** 2 * loads.mean())


def check(stats, loads):
    loads = numpy.asarray(loads, dtype=float)
    expected = {
        "total": loads.sum(),
        "mean": loads.mean(),
        "max": loads.max(),
        "min": loads.min(),
        "max_over_mean": loads.max() / loads.mean(),
        "cv": scipy.stats.variation(loads),
        "gini": gini(loads),
        "entropy": scipy.stats.entropy(loads),
        "evenness": 1.0 if len(loads) == 1 else scipy.stats.entropy(loads) / numpy.log(len(loads)),
    }
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name


def random_counts(random, layers, experts):
    """Loads of many shapes: even, skewed, sparse, with one expert that has nearly all."""
    rows = []
    for _ in range(layers):
        kind = random.integers(4)
        if kind == 0:
            row = random.integers(1, 1000, experts)
        elif kind == 1:
            row = random.multinomial(100_000, random.dirichlet(numpy.full(experts, 0.3)))
        elif kind == 2:
            row = random.integers(0, 50, experts) * (random.random(experts) < 0.2)
        else:
            row = numpy.ones(experts, dtype=int)
            row[random.integers(experts)] = random.integers(1, 2**45)
        row[random.integers(experts)] += 1  # a layer has load
        rows.append(row)
    return numpy.array(rows)


@pytest.mark.parametrize("experts", [1, 2, 3, 8, 16, 60, 64, 128, 256, 257])
def test_a_hundred_random_layers_agree(experts, tmp_path):
    counts = random_counts(numpy.random.default_rng(experts), 100, experts)
    report = study(tmp_path / "counts.csv", counts)
    assert len(report["layers"]) == 100
    homes = numpy.arange(experts) * RANKS // experts
    for layer, row in zip(report["layers"], counts, strict=True):
        check(layer["experts"], row)
        check(layer["ranks"], numpy.bincount(homes, weights=row, minlength=RANKS))
        mean = row.mean()
        assert sorted(layer["hot"]) == [e for e in range(experts) if row[e] >= 2 * mean]
        assert sorted(layer["cold"]) == [e for e in range(experts) if 2 * row[e] <= mean]


def test_edges(tmp_path):
    counts = numpy.array([[0, 0, 9, 0], [5, 5, 5, 5], [0, 0, 0, 0], [0, 0, 0, 1]])
    layers = study(tmp_path / "counts.csv", counts)["layers"]
    assert [layer["layer"] for layer in layers] == [0, 1, 3]  # one has no load
    for layer in layers:
        check(layer["experts"], counts[layer["layer"]])
    assert layers[0]["experts"]["max_over_mean"] == 4
    assert layers[0]["experts"]["gini"] == pytest.approx(0.75)
    assert layers[0]["experts"]["entropy"] == 0
    assert layers[1]["experts"]["gini"] == 0 and layers[1]["experts"]["evenness"] == 1


def test_no_placement_is_worse_than_the_first(tmp_path):
    random = numpy.random.default_rng(5)
    counts = random_counts(random, 60, 64)
    for slots in (16, 17, 24):
        placements = study(tmp_path / "counts.csv", counts, "--slots-per-rank", str(slots))["placements"]
        assert [p["name"] for p in placements] == ["contiguous", "migrate", "remap", "replicate"]
        for placement in placements:
            assert placement["expert_s"] <= placements[0]["expert_s"] * (1 + 1e-12)
            assert placement["expert_s"] >= placements[0]["even_s"] * (1 - 1e-12)
    # Renaming experts changes what is contiguous, and not what can be reached with all slots in play.
    shuffled = counts[:, random.permutation(64)]
    other = study(tmp_path / "counts.csv", shuffled, "--slots-per-rank", "24")["placements"]
    assert other[3]["expert_s"] == pytest.approx(placements[3]["expert_s"], rel=0.02)
    # Twice the load costs twice the time.
    double = study(tmp_path / "counts.csv", 2 * counts, "--slots-per-rank", "24")["placements"]
    for one, two in zip(placements, double, strict=True):
        assert two["expert_s"] == pytest.approx(2 * one["expert_s"])

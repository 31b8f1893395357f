"""Makes tests/data/predictor: a forest that studies/train_predictor.py trained on made-up runs, and what
scikit-learn predicts with it.

    python tools/references/make_forest_reference.py     (with studies/requirements.txt installed)
"""

import json
import sys
from pathlib import Path

import numpy
import pandas

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "studies"))

import train_predictor  # noqa: E402

FACTORS = ["threads", "batch-size", "load", "dtype"]
TARGETS = ["decode_tokens_per_s", "gain"]


def made_up_runs(random):
    rows = []
    for point in range(60):
        threads, batch = int(random.choice([1, 2, 4])), int(random.choice([1, 8, 32]))
        load, dtype = float(random.uniform(0, 1)), str(random.choice(["bf16", "f16", "f32"]))
        speed = 100 * threads**0.8 * batch**0.6 * (0.5 if dtype == "f32" else 1) * (1 - 0.3 * load)
        rows.append({"point": point, "threads": threads, "batch-size": batch, "load": load, "dtype": dtype,
                     "decode_tokens_per_s": speed * random.lognormal(0, 0.05),
                     "gain": load - 0.5 + random.normal(0, 0.02)})
    return pandas.DataFrame(rows)


def main():
    random = numpy.random.default_rng(5)
    forest, trained = train_predictor.train(made_up_runs(random), FACTORS, TARGETS, "made-up runs", trees=12)
    cases = []
    for _ in range(200):
        # Numbers that f32 and f64 hold differently are among them, and the training's own levels.
        cases.append({"threads": float(random.choice([1, 2, 3, 4])),
                      "batch-size": float(random.choice([1, 8, 9.1, 20, 32])),
                      "load": float(random.uniform(0.02, 0.94)),
                      "dtype": str(random.choice(["bf16", "f16", "f32"]))})
    matrix = train_predictor.columns(pandas.DataFrame(cases), forest["features"])
    predicted = {}
    for target in forest["targets"]:
        values = trained[target["name"]].predict(matrix)
        predicted[target["name"]] = (numpy.exp(values) if target["scale"] == "log" else values).tolist()
    folder = ROOT / "tests/data/predictor"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "forest.json").write_text(json.dumps(forest) + "\n")
    (folder / "expected.json").write_text(json.dumps({"cases": cases, "predicted": predicted}) + "\n")


if __name__ == "__main__":
    main()

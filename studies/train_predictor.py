"""Trains the random forest of `sluice plan predict` on measured runs and exports it as JSON.

    python studies/train_predictor.py RESULTS ... --out FOREST.json [--targets a b] [--trees 100]

RESULTS are folders that `sluice study run` made, of studies with the same factors. Prints for each
target how far off the forest is for runs that it has not seen: by cross-validation in which all
repeats of a point are left out together, so that it never predicts a point it was shown.
"""

import argparse
import json
from pathlib import Path

import numpy
import pandas
from results import Study
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict


def describe_features(runs, factors):
    """The features as the forest's JSON lists them: numbers, or words with a column for each."""
    features = []
    for factor in factors:
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in runs[factor])
        values = sorted(set(runs[factor].tolist()) if numeric else {str(v) for v in runs[factor]})
        features.append({"name": factor, "kind": "number" if numeric else "category", "values": values})
    return features


def columns(runs, features):
    """The matrix that trees compare: numbers as they are, words as 0 or 1 for each choice."""
    parts = []
    for feature in features:
        values = runs[feature["name"]]
        if feature["kind"] == "number":
            parts.append(values.to_numpy(dtype=float))
        else:
            parts += [(values.astype(str) == choice).to_numpy(dtype=float) for choice in feature["values"]]
    return numpy.column_stack(parts)


def export_tree(tree):
    return {
        "column": tree.feature.tolist(),
        "threshold": tree.threshold.tolist(),
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "value": tree.value[:, 0, 0].tolist(),
    }


def train_target(runs, name, matrix, groups, trees, seed):
    """The exported forest of one target, and the one of scikit-learn."""
    values = runs[name].to_numpy(dtype=float)
    log = bool((values > 0).all())
    wanted = numpy.log(values) if log else values
    forest = RandomForestRegressor(n_estimators=trees, random_state=seed, min_samples_leaf=1)
    folds = GroupKFold(n_splits=min(10, len(set(groups))))
    unseen = cross_val_predict(forest, matrix, wanted, cv=folds, groups=groups)
    if log:
        unseen = numpy.exp(unseen)
    forest.fit(matrix, wanted)
    exported = {
        "name": name,
        "scale": "log" if log else "linear",
        "cross_validated_r2": float(r2_score(values, unseen)),
        "cross_validated_relative_error": float(numpy.median(numpy.abs(unseen - values) / numpy.abs(values))),
        "trees": [export_tree(estimator.tree_) for estimator in forest.estimators_],
    }
    return exported, forest


def train(runs, factors, targets, source, trees=100, seed=0):
    """(JSON of the forest, {target: scikit-learn's forest}). `runs` has a column `point`."""
    runs = runs.dropna(subset=targets)
    if runs["point"].nunique() < 2:
        raise ValueError("a forest needs runs of at least two points")
    features = describe_features(runs, factors)
    matrix = columns(runs, features)
    exported, forests = [], {}
    for target in targets:
        one, forests[target] = train_target(runs, target, matrix, runs["point"].to_numpy(), trees, seed)
        exported.append(one)
    forest = {"format": "sluice-forest", "version": 1, "source": source, "trained_on": len(runs),
              "features": features, "targets": exported}
    return forest, forests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", help="default: the study's responses")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    studies = [Study(folder) for folder in arguments.results]
    factors = studies[0].factors
    for study in studies[1:]:
        if set(study.factors) != set(factors):
            parser.error(f"{study.name} has other factors than {studies[0].name}")
    # Points of different studies are different points.
    runs = pandas.concat([study.runs.assign(point=study.runs["point"] + i * 1_000_000)
                          for i, study in enumerate(studies)], ignore_index=True)
    targets = arguments.targets or studies[0].responses
    source = f"{', '.join(study.name for study in studies)} on {studies[0].machine['cpu']}"
    forest, _ = train(runs, factors, targets, source, arguments.trees, arguments.seed)
    arguments.out.write_text(json.dumps(forest) + "\n")
    print(f"{len(runs)} runs, {arguments.trees} trees: {arguments.out}")
    for target in forest["targets"]:
        print(f"  {target['name']:<28} unseen points: off by {100 * target['cross_validated_relative_error']:.1f} %"
              f" (median), R2 {target['cross_validated_r2']:.3f}")


if __name__ == "__main__":
    main()

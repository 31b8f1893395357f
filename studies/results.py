"""Reads what `sluice study run` wrote: study.json and runs/*.json, and nothing else."""

import json
from pathlib import Path

import pandas


def _element(values, part):
    """The element of a list that one part of a path names: an index, or key=value."""
    if "=" in part:
        key, value = part.split("=", 1)
        return next((v for v in values if isinstance(v, dict) and str(v.get(key)) == value), None)
    return values[int(part)] if part.isdigit() and int(part) < len(values) else None


def find(result, path):
    """The number at `path`, as a study's `responses` name it; None where there is none."""
    for part in path.split("."):
        if isinstance(result, dict):
            result = result.get(part)
        elif isinstance(result, list):
            result = _element(result, part)
        else:
            return None
    is_number = isinstance(result, (int, float)) and not isinstance(result, bool)
    return float(result) if is_number else None


class Study:
    """A study's design and its runs.

    design: study.json. runs: a row for each run that is ok, with the columns run, point, repeat,
    seconds, one for each factor and one for each response. failed: the other records.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.design = json.loads((folder / "study.json").read_text())
        if self.design.get("format") != "sluice-study":
            raise ValueError(f"{folder}: study.json is not of a study")
        self.factors = [factor["name"] for factor in self.design["factors"]]
        self.responses = self.design["responses"]
        records = [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*.json"))]
        self.failed = [record for record in records if record["status"] != "ok"]
        self.records = [record for record in records if record["status"] == "ok"]
        if not self.records:
            raise ValueError(f"{folder}: has no run that is ok")
        self.machine = self.records[0]["machine"]
        self.runs = pandas.DataFrame([self._row(record) for record in self.records])

    @property
    def name(self):
        return self.design["name"]

    def levels(self, factor):
        found = next(f for f in self.design["factors"] if f["name"] == factor)
        return [level["value"] for level in found["levels"]]

    def _row(self, record):
        row = {key: record[key] for key in ("run", "point", "repeat", "seconds")}
        row |= record["factors"]
        return row | {path: find(record["result"], path) for path in self.responses}

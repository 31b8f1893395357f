"""Roofline of a machine with the decode steps that ran on it (Williams, Waterman & Patterson, 2009).

    python studies/roofline.py PROFILE.json RESULTS ... --out DIR

PROFILE is what `sluice profile` wrote there; RESULTS are folders of studies of `bench latency`, or
files with its JSON. A step's FLOPs over the bytes that it has to read is its intensity; it can be no
faster than the bandwidth times that, nor than the machine's products. The dashed line is the bandwidth
that the benchmark measured for as many bytes as its steps read, which a cache may hold.
"""

import argparse
import json
from pathlib import Path

import figures
import numpy
from results import Study


def machine_limits(profile, device):
    """(bytes/s, FLOP/s, name) of where the step ran."""
    room = profile["host"] if device == "cpu" else profile["gpu"]
    return room["bandwidth_bytes_per_s"], room["bf16_flops_per_s"], profile["name"]


def read_results(paths):
    results = []
    for path in paths:
        if path.is_dir():
            results += [record["result"] for record in Study(path).records]
        else:
            results.append(json.loads(path.read_text()))
    return results


def points(results):
    """(batch, FLOP per byte, FLOP/s) of each result's median decode step."""
    rows = []
    for result in results:
        seconds = result["tpot_ms"] / 1e3
        rows.append((result["batch"], result["decode_step_flops"] / result["decode_step_bytes"],
                     result["decode_step_flops"] / seconds))
    return rows


def draw(profile, results, folder):
    bandwidth, flops, name = machine_limits(profile, results[0]["device"])
    rows = points(results)
    ridge = flops / bandwidth
    least = min([row[1] for row in rows] + [ridge]) / 4
    most = max([row[1] for row in rows] + [ridge]) * 4
    intensity = numpy.geomspace(least, most, 200)
    figure, axis = figures.pyplot.subplots(figsize=(4.6, 3.2))
    axis.loglog(intensity, numpy.minimum(flops, bandwidth * intensity) / 1e9, color="black")
    near = numpy.median([result["read_bandwidth_bytes_per_s"] for result in results])
    axis.loglog(intensity, numpy.minimum(flops, near * intensity) / 1e9, color="0.5", linestyle="--")
    for index, batch in enumerate(sorted({row[0] for row in rows})):
        chosen = [row for row in rows if row[0] == batch]
        axis.loglog([row[1] for row in chosen], [row[2] / 1e9 for row in chosen], linestyle="",
                    markersize=4, label=f"batch {batch}", **figures.style(index))
    axis.set_xlabel("FLOP / byte that a step has to read")
    axis.set_ylabel("GFLOP/s")
    axis.legend(fontsize=7)
    axis.set_title(f"{name}: {bandwidth / 1e9:.1f} GB/s, {flops / 1e9:.4g} GFLOP/s", fontsize=9)
    return figures.save(figure, folder, "roofline")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    profile = json.loads(arguments.profile.read_text())
    for name in draw(profile, read_results(arguments.results), arguments.out):
        print(arguments.out / name)


if __name__ == "__main__":
    main()

"""Heat map of experts' loads and bars of ranks' loads, from `sluice study load-balance --json`.

    sluice study load-balance run.trace --json > load.json
    python studies/routing_figures.py load.json --out DIR

Also the time that each placement takes, and how the imbalance wanders over windows of time.
"""

import argparse
import json
from pathlib import Path

import figures
import numpy


def draw_heat_map(report, folder):
    layers = report["layers"]
    shares = numpy.array([numpy.array(layer["loads"]) / layer["experts"]["mean"] for layer in layers])
    figure, axis = figures.pyplot.subplots(
        figsize=(max(4.0, min(12.0, 0.06 * shares.shape[1] + 2)), max(2.0, 0.12 * len(layers) + 1.2)))
    image = axis.imshow(shares, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    axis.set_xlabel("expert")
    axis.set_ylabel("layer")
    step = max(1, len(layers) // 12)
    axis.set_yticks(range(0, len(layers), step), [layers[i]["layer"] for i in range(0, len(layers), step)])
    axis.grid(False)
    figure.colorbar(image, label="tokens / mean of the layer")
    axis.set_title(f"{report['model']}, routed by {report['source']}", fontsize=10)
    return figures.save(figure, folder, "expert_load")


def draw_ranks(report, folder):
    """Tokens of each rank over all layers; whiskers reach from the least to the most loaded layer."""
    loads = numpy.array([layer["rank_loads"] for layer in report["layers"]], dtype=float)
    shares = loads / loads.mean(axis=1, keepdims=True)
    mean = shares.mean(axis=0)
    reach = numpy.abs(numpy.array([shares.min(axis=0), shares.max(axis=0)]) - mean)
    figure, axis = figures.pyplot.subplots(figsize=(max(3.5, 0.35 * len(mean) + 1.5), 2.8))
    axis.bar(range(len(mean)), mean, yerr=reach, capsize=2, color=figures.COLOURS[0])
    axis.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axis.set_xlabel("GPU (rank)")
    axis.set_ylabel("load / mean")
    axis.set_xticks(range(len(mean)))
    return figures.save(figure, folder, "rank_load")


def draw_placements(report, folder):
    placements = report["placements"]
    figure, axis = figures.pyplot.subplots(figsize=(4.2, 2.8))
    first = placements[0]["expert_s"]
    names = [placement["name"] for placement in placements] + ["even"]
    costs = [placement["expert_s"] / first for placement in placements] + [placements[0]["even_s"] / first]
    bars = axis.bar(names, [100 * cost for cost in costs], color=figures.COLOURS[0])
    axis.bar_label(bars, fmt="%.1f", fontsize=7)
    axis.set_ylabel("experts' time, % of contiguous")
    return figures.save(figure, folder, "placements")


def draw_windows(report, folder):
    windows = report["windows"]
    if len(windows) < 2:
        return []
    figure, axis = figures.pyplot.subplots(figsize=(4.6, 2.8))
    steps = [window["first_step"] for window in windows]
    for index, (key, label) in enumerate([("max_over_mean", "experts"), ("rank_max_over_mean", "ranks")]):
        axis.plot(steps, [window[key] for window in windows], label=label, markersize=3,
                  **figures.style(index))
    axis.set_xlabel("step")
    axis.set_ylabel("max / mean")
    axis.set_ylim(bottom=1)
    axis.legend()
    return figures.save(figure, folder, "imbalance_over_time")


def draw(report, folder):
    return (draw_heat_map(report, folder) + draw_ranks(report, folder)
            + draw_placements(report, folder) + draw_windows(report, folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for name in draw(json.loads(arguments.report.read_text()), arguments.out):
        print(arguments.out / name)


if __name__ == "__main__":
    main()

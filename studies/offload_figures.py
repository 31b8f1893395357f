"""Draws what `sluice bench offload --sweep ... --json` measured: throughput against n, and against the
serial baseline.

    python studies/offload_figures.py RESULT.json --out DIR

RESULT.json is the command's output, or a file of bench/record.py with it. For each budget there is
one figure of tokens a second over n with the byte bound of each run, and one of the speed-up over
one sequence beside the theory's.
"""

import argparse
import json
import pathlib

from figures import file_word, pyplot, save, style


def load(path):
    result = json.loads(path.read_text())
    return result["runs"][0] if "runs" in result else result


def name_of(result, budget):
    cap = budget["vram_budget"]
    return result["model"] if cap is None else f"{result['model']} at {cap / 1e9:g} GB"


def rows_of(budget, name):
    rows = [row for row in budget["rows"] if row["name"] == name and "left_out" not in row]
    return sorted(rows, key=lambda row: row["sequences"])


def throughput(result, budget):
    figure, axes = pyplot.subplots(figsize=(4.6, 3.2))
    pipeline = rows_of(budget, "pipeline")
    counts = [row["sequences"] for row in pipeline]
    axes.plot(counts, [row["tokens_per_s"] for row in pipeline], label="pipeline", **style(0))
    axes.plot(counts, [row["bound_tokens_per_s"] for row in pipeline], "--", label="byte bound",
              color=style(0)["color"])
    for index, (name, label) in enumerate(
        [("serial", "serial, whole layers"), ("on-demand", "on demand, LRU"), ("resident", "all resident")], 1
    ):
        rows = rows_of(budget, name)
        if rows:
            axes.plot([row["sequences"] for row in rows], [row["tokens_per_s"] for row in rows],
                      label=label, **style(index))
    solver = budget["solver"]
    axes.axvline(solver["sequences"], color="grey", linewidth=0.8, linestyle=":", label="the solver's n")
    axes.set(xscale="log", yscale="log", xlabel="sequences together (n)", ylabel="decoded tokens/s",
             title=name_of(result, budget))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    return figure


def speedup(result, budget):
    figure, axes = pyplot.subplots(figsize=(4.6, 3.2))
    pipeline = rows_of(budget, "pipeline")
    counts = [row["sequences"] for row in pipeline]
    axes.plot(counts, [row["over_one"] for row in pipeline], label="over one sequence", **style(0))
    axes.plot(counts, [row["theory_over_one"] for row in pipeline], "--", label="theory",
              color=style(0)["color"])
    over_serial = [(row["sequences"], row["over_serial_one"]) for row in pipeline
                   if row["over_serial_one"] is not None]
    if over_serial:
        axes.plot(*zip(*over_serial), label="over serial, one at a time", **style(1))
    axes.set(xscale="log", xlabel="sequences together (n)", ylabel="speed-up in tokens/s",
             title=name_of(result, budget))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    arguments = parser.parse_args()
    result = load(arguments.result)
    for budget in result["budgets"]:
        word = file_word(name_of(result, budget))
        for kind, draw in (("throughput", throughput), ("speedup", speedup)):
            for name in save(draw(result, budget), arguments.out, f"offload_{kind}_{word}"):
                print(arguments.out / name)


if __name__ == "__main__":
    main()

"""Prints docs/BENCHMARKS.md from bench/results/*.json: medians over the runs of each file.

    python3 bench/table.py > docs/BENCHMARKS.md
"""

import json
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def rows(kind):
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if kind in result["command"]:
            yield path.stem, result, result["runs"]


def latency_table():
    yield "| result | batch | decode tok/s | share of floor | floor reads at | prefill tok/s | commit |"
    yield "|---|---|---|---|---|---|---|"
    for name, result, runs in rows("latency"):
        cells = [
            name,
            str(runs[0]["batch"]),
            f"{median(runs, 'decode_tokens_per_s'):.0f}",
            f"{100 * median(runs, 'share_of_floor'):.0f} %",
            f"{median(runs, 'read_bandwidth_bytes_per_s') / 1e9:.1f} GB/s",
            f"{median(runs, 'prefill_tokens_per_s'):.0f}",
            result["commit"][:8],
        ]
        yield "| " + " | ".join(cells) + " |"


def kv_cache_table():
    yield "| result | with a cache | without | ratio | answers | commit |"
    yield "|---|---|---|---|---|---|"
    for name, result, runs in rows("kv-cache"):
        cells = [
            name,
            f"{median(runs, 'with_cache_ms'):.0f} ms",
            f"{median(runs, 'without_cache_ms'):.0f} ms",
            f"{median(runs, 'ratio'):.1f}",
            result.get("peer", ""),
            result["commit"][:8],
        ]
        yield "| " + " | ".join(cells) + " |"


def tokenizer_table():
    yield "| result | style | texts | MB/s | of the tokenizers library | ratio | commit |"
    yield "|---|---|---|---|---|---|---|"
    for name, result, runs in rows("bench/tokenizer.py"):
        for run in runs:
            speed, peer = (
                run["bytes"] / 1e6 / statistics.median(run[key]) for key in ("seconds", "tokenizers_seconds")
            )
            cells = [
                name,
                run["style"],
                run["texts"],
                f"{speed:.1f}",
                f"{peer:.1f}",
                f"{run['ratio']:.1f}",
                result["commit"][:8],
            ]
            yield "| " + " | ".join(cells) + " |"


def main():
    print("# Benchmarks\n")
    print("Made by bench/table.py from the files in bench/results/, which hold the commands, the")
    print("machine and every sample (bench/record.py makes them). Medians over the runs of a file.")
    print("The floor of decoding is the time to read the step's bytes at the bandwidth measured in")
    print("the same run for so many bytes: of memory, or of the caches that hold a small model.\n")
    print("\n".join(latency_table()) + "\n")
    print("\n".join(kv_cache_table()) + "\n")
    print("Encoding on one thread, beside the `tokenizers` library in the same rounds:\n")
    print("\n".join(tokenizer_table()))


if __name__ == "__main__":
    main()

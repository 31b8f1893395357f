"""Prints docs/BENCHMARKS.md from bench/results/*.json: medians over the runs of each file.

    python3 bench/table.py > docs/BENCHMARKS.md
"""

import json
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# Of a part's or a peer's row, what is a figure; the rest says what was timed.
FIGURES = {
    "bytes",
    "flops",
    "floor_us",
    "bound",
    "us",
    "share_of_floor",
    "distinct_experts",
    "bytes_per_s",
    "flops_per_s",
    "operations_per_s",
    "samples_s",
    "samples_us",
}


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def results(kind):
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if kind in " ".join(result["command"]):
            yield path.stem, result, result["runs"]


def table(header, rows):
    lines = [header.split(" | "), ["---"] * len(header.split(" | ")), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")


def table_of_results(header, kind, rows):
    """A table of the files whose command has `kind` in it: `rows` gives what stands between a file's name and its commit."""
    table(
        f"result | {header} | commit",
        (
            [name, *row, result["commit"][:8]]
            for name, result, runs in results(kind)
            for row in rows(result, runs)
        ),
    )


def latency_rows(result, runs):
    yield [
        str(runs[0]["batch"]),
        f"{median(runs, 'decode_tokens_per_s'):.0f}",
        f"{100 * median(runs, 'share_of_floor'):.0f} %",
        f"{median(runs, 'read_bandwidth_bytes_per_s') / 1e9:.1f} GB/s",
        f"{median(runs, 'prefill_tokens_per_s'):.0f}",
        "; ".join(
            f"{peer['result']['peer'].split(',')[0]}, {peer['result']['mode']}: "
            f"{peer['result']['decode_tokens_per_s']:.1f}"
            for peer in result.get("baselines", [])
        ),
    ]


def throughput_rows(_, runs):
    for mode in ("serial", "batched"):
        figures = runs[0][mode]
        yield [
            mode,
            str(figures["prompts"]),
            f"{figures['output_tokens_per_s']:.0f}",
            f"{figures['token_p50_ms']:.2f} ms",
            f"{figures['token_p99_ms']:.2f} ms",
            f"{figures['memory_bytes'] / 1e9:.1f} GB",
        ]


def kv_cache_rows(result, runs):
    yield [
        f"{median(runs, 'with_cache_ms'):.0f} ms",
        f"{median(runs, 'without_cache_ms'):.0f} ms",
        f"{median(runs, 'ratio'):.1f}",
        result.get("peer", ""),
    ]


def serving_rows(_, runs):
    yield [
        str(runs[0]["num_prompts"]),
        str(runs[0]["max_concurrency"] or ""),
        f"{median(runs, 'output_throughput'):.0f}",
        f"{median(runs, 'total_token_throughput'):.0f}",
        f"{median(runs, 'median_ttft_ms'):.0f} ms",
        f"{median(runs, 'median_tpot_ms'):.1f} ms",
        f"{median(runs, 'p99_itl_ms'):.1f} ms",
    ]


def overload_rows(_, runs):
    yield [
        f"{median(runs, 'offered_requests_per_s'):.0f}",
        f"{statistics.median(runs[0]['loaded_output_tokens_per_s']):.0f}",
        f"{statistics.median(runs[0]['best_output_tokens_per_s']):.0f}",
        f"{100 * median(runs, 'goodput_share'):.0f} %",
        f"{median(runs, 'refusal_p99_ms'):.1f} ms",
        f"{median(runs, 'longest_stall_ms'):.0f} ms",
    ]


def disconnects_rows(_, runs):
    yield [
        str(runs[0]["requests"]),
        "nothing" if not runs[0]["left"] else json.dumps(runs[0]["left"]),
        f"{median(runs, 'longest_stall_ms'):.0f} ms",
    ]


def memory_rows(_, runs):
    yield [str(runs[0]["requests"]), f"{median(runs, 'bytes_a_request'):.0f}"]


def invariance_rows():
    """Files of the same work without and with --batch-invariant: NAME and NAME_invariant."""
    latencies = {name: (result, runs) for name, result, runs in results("bench latency")}
    for name, (result, runs) in latencies.items():
        if f"{name}_invariant" not in latencies:
            continue
        _, pinned = latencies[f"{name}_invariant"]
        speeds = [median(figures, "decode_tokens_per_s") for figures in (runs, pinned)]
        yield [
            name,
            str(runs[0]["batch"]),
            *(f"{speed:.0f}" for speed in speeds),
            f"{100 * (1 - speeds[1] / speeds[0]):.0f} %",
            result["commit"][:8],
        ]


def startup_rows(_, runs):
    if "ready_seconds" not in runs[0]:
        return
    yield [
        f"{runs[0]['weight_bytes'] / 1e9:.1f} GB",
        f"{median(runs, 'ready_seconds'):.2f} s",
        f"{median(runs, 'first_token_seconds'):.2f} s",
    ]


def tokenizer_rows(_, runs):
    for run in runs:
        speed, peer = (run["bytes"] / 1e6 / statistics.median(run[key]) for key in ("seconds", "tokenizers_seconds"))
        yield [run["style"], run["texts"], f"{speed:.1f}", f"{peer:.1f}", f"{run['ratio']:.1f}"]


def middle(rows):
    """One row whose figures are the medians of those of several runs."""
    numbers = {
        key: statistics.median(row[key] for row in rows)
        for key, value in rows[0].items()
        if isinstance(value, float) and all(isinstance(row[key], (int, float)) for row in rows)
    }
    return {**rows[0], **numbers}


def offload_rows(runs, budget):
    """Of the budget of that number, in every run."""
    for rows in zip(*(run["budgets"][budget]["rows"] for run in runs)):
        row = middle(rows)
        if "left_out" in row:
            continue
        times = ("over_one", "theory_over_one", "over_serial_one")
        yield [
            row["name"],
            str(row["sequences"]),
            str(row["expert_slots"]),
            f"{row['tokens_per_s']:.1f}",
            *("" if row[key] is None else f"{row[key]:.2f}" for key in times),
            f"{100 * row['hit_rate']:.0f} %",
            f"{100 * row['forecast_hit_rate']:.0f} %",
            f"{row['link_bytes_per_s'] / 1e9:.1f}",
            f"{100 * row['link_busy_share']:.0f} %",
            f"{100 * row['share_of_bound']:.0f} % ({row['bound']})",
        ]


def print_offload():
    for name, result, runs in results("bench offload"):
        for number, budget in enumerate(runs[0]["budgets"]):
            cap = budget["vram_budget"]
            bound = "" if cap is None else f", {cap / 1e9:g} GB"
            print(f"### {name}{bound}, {runs[0]['device']}, at {result['commit'][:8]}\n")
            table(
                "way | n | slots | tok/s | over n=1 | theory | over serial | hits | foretold | link GB/s | "
                "link busy | of the byte bound",
                offload_rows(runs, number),
            )
            solver = budget["solver"]
            if any(row["sequences"] == solver["sequences"] for row in budget["rows"]):
                print(f"The solver takes n = {solver['sequences']}; the best is n = {solver['best_sequences']}.\n")


def shape_of(row, name):
    return ", ".join(f"{key} {value}" for key, value in row.items() if key not in FIGURES | {name})


def part_rows(runs):
    for row in runs[0]["rows"]:
        if "us" not in row:
            continue
        experts = row.get("distinct_experts")
        yield [
            row["part"],
            shape_of(row, "part"),
            "" if experts is None else f"{experts:.1f}",
            f"{row['floor_us']:.2f}",
            f"{row['us']:.2f}",
            f"{100 * row['share_of_floor']:.0f} %",
            f"{row['bytes_per_s'] / 1e9:.0f}",
            f"{row['flops_per_s'] / 1e12:.1f}",
        ]


def peer_rows(baselines):
    for baseline in baselines:
        for row in baseline["result"]["rows"]:
            rate = row.get("bytes_per_s")
            operations = row.get("operations_per_s")
            yield [
                row["kernel"],
                shape_of(row, "kernel"),
                f"{row['us']:.2f}",
                "" if rate is None else f"{rate / 1e9:.0f}",
                "" if operations is None else f"{operations / 1e12:.1f}",
            ]


def print_parts():
    for kind in ("router", "kernels", "attention"):
        for name, result, runs in results(f"bench {kind}"):
            print(f"### {name}, {runs[0]['device']}, at {result['commit'][:8]}\n")
            table("part | shape | distinct experts | floor us | us | share of floor | GB/s | TFLOP/s", part_rows(runs))
            peers = list(peer_rows(result.get("baselines", [])))
            if peers:
                print("Peers in the same call:\n")
                table("kernel | shape | us | GB/s | TFLOP/s", peers)


def main():
    print("# Benchmarks\n")
    print("Made by bench/table.py from the files in bench/results/, which hold the commands, the")
    print("machine and every sample (bench/record.py makes them). Medians over the runs of a file, but the first")
    print("run of throughput and parts.")
    print("The floor of decoding is the time to read the step's bytes at the bandwidth measured in")
    print("the same run for so many bytes: of memory, or of the caches that hold a small model.")
    print("cuda_* ran on one H100 of 80 GB, on random weights and uniform routing where the command in the")
    print("file names no other.\n")
    table_of_results(
        "batch | decode tok/s | share of floor | floor reads at | prefill tok/s | peer's decode tok/s",
        "bench latency",
        latency_rows,
    )
    print("The same requests one after the other, and batched as they come:\n")
    table_of_results(
        "mode | requests | output tok/s | P50 a token | P99 a token | memory", "bench throughput", throughput_rows
    )
    table_of_results("with a cache | without | ratio | answers", "bench kv-cache", kv_cache_rows)
    print("Served over HTTP to `sluice bench serve`:\n")
    table_of_results(
        "requests | at once | output tok/s | total tok/s | median TTFT | median TPOT | P99 ITL",
        "bench serve",
        serving_rows,
    )
    print("## What a server bears\n")
    print("By bench/serving_load.py ([MEASURING.md](MEASURING.md)); cpu_* on 2 cores, cpu16_* on 16, of which")
    print("four are the load's. Ten times what a server can serve, beside closed loops right before and after:\n")
    table_of_results(
        "offered requests/s | output tok/s | best | goodput | P99 of a refusal | longest stall",
        "bench/serving_load.py overload",
        overload_rows,
    )
    print("Clients that go at every phase of a request, beside one that stays:\n")
    table_of_results("clients | left of them | longest stall", "bench/serving_load.py disconnects", disconnects_rows)
    print("Requests on connections that are kept:\n")
    table_of_results("requests | bytes of growth a request", "bench/serving_load.py memory", memory_rows)
    print("## Experts that do not fit\n")
    print("`sluice bench offload` ([OFFLOAD.md](OFFLOAD.md)).\n")
    print_offload()
    print("## What --batch-invariant costs\n")
    table("result | batch | decode tok/s | with the flag | cost | commit", invariance_rows())
    print("## Other figures\n")
    print("A server's start, weights in the page cache:\n")
    table_of_results("weights | ready | first token", "sluice serve", startup_rows)
    print("Encoding on one thread, beside the `tokenizers` library in the same rounds:\n")
    table_of_results(
        "style | texts | MB/s | of the tokenizers library | ratio", "bench/tokenizer.py", tokenizer_rows
    )
    print("## Parts\n")
    print("`sluice bench router`, `kernels` and `attention`. What a part reads again and again (a router's")
    print("logits, a norm's row) lies in a cache, as it does in a step; weights, keys and values do not.\n")
    print_parts()


if __name__ == "__main__":
    main()

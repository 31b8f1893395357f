"""Prints docs/PLACEMENTS.md: where every model in configs/models fits, by `sluice plan placement`.

    python3 tools/docs/make_placements.py build/release/bin/sluice > docs/PLACEMENTS.md
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = [
    "OLMoE-1B-7B-0924", "Qwen1.5-MoE-A2.7B", "Qwen3-30B-A3B", "Mixtral-8x7B-v0.1", "Qwen2-57B-A14B",
    "DBRX", "DeepSeek-V3",
]
# Models that fill in masked tokens, every position anew in each step.
DENOISERS = ["LLaDA-MoE-7B-A1B-Instruct", "LLaDA-8B-Instruct"]
DENOISED_SEQUENCES = 16
MACHINES = [("dgx-h100", "80 GB"), ("mi300x", "192 GB")]
GPUS = [1, 2, 4, 8]
SEQUENCES, CONTEXT = 64, 4096

HEAD = f"""# Placements

Made by tools/docs/make_placements.py from `sluice plan placement MODEL --hardware PROFILE --gpus N`: {SEQUENCES} sequences
of {CONTEXT:,} positions, weights as stored, 90 % of a GPU's memory, experts alike. Times are the cost model's with published
figures at their best ([STUDIES.md](STUDIES.md#placement)), not measured: what they are good for is comparing rows. The
longest context is what memory holds for one sequence a group, whatever the model was trained for.

LLaDA's models are placed by their shapes alone: nothing here runs them yet. They do not decode token by token; a step of
denoising runs every position of a sequence anew, so their column is of positions that GPUs run in a second, and theirs
is the strategy that runs most. KV is what keeping all positions of {DENOISED_SEQUENCES} sequences would take."""


def plan(binary, model, machine, gpus, sequences=SEQUENCES):
    done = subprocess.run(
        [binary, "plan", "placement", ROOT / "configs/models" / model, "--hardware",
         ROOT / "configs/profiles" / f"{machine}.json", "--gpus", str(gpus), "--max-num-seqs", str(sequences),
         "--context", str(CONTEXT), "--json"],
        capture_output=True, text=True, check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def layout(strategy):
    """The strategy's name and a GPU's memory."""
    name = strategy["strategy"]
    if name == "hybrid":
        name += f" tp{strategy['tensor_parallel']} dp{strategy['data_parallel']}"
    memory = strategy["gpu_bytes"]
    work = memory["activations"] + memory["buffers"] + memory["runtime"]
    return [name, f"{memory['weights'] / 1e9:.1f} + {memory['kv'] / 1e9:.1f} + {work / 1e9:.1f}"]


def line(cells):
    return "| " + " | ".join(cells) + " |"


def row(model, gpus, report):
    cells = [model, str(gpus)]
    if report["best"] is None:
        return line([*cells, report["reason"], "", "", "", "", "", ""])
    best = report["strategies"][report["best"]]
    return line([
        *cells, *layout(best),
        f"{best['decode']['step_s'] * 1e3:.2f}", f"{best['decode']['tokens_per_s']:,.0f}",
        str(report["queue_depth"]), f"{best['most_sequences']:,}", f"{best['longest_context']:,.0f}",
    ])


def denoiser_row(model, gpus, report):
    cells = [model, str(gpus)]
    fitting = [strategy for strategy in report["strategies"] if strategy.get("fits")]
    if not fitting:
        return line([*cells, report["reason"], "", "", ""])
    best = max(fitting, key=lambda strategy: strategy["prefill"]["tokens_per_s"])
    return line([*cells, *layout(best), f"{best['prefill']['tokens_per_s']:,.0f}", f"{best['most_sequences']:,}"])


def main():
    binary = sys.argv[1]
    print(HEAD)
    for machine, size in MACHINES:
        print(f"\n## GPUs of {size} ({machine})\n")
        print("| model | GPUs | strategy | GB a GPU: weights + KV + other | decode step, ms | tok/s | queue depth "
              "| largest batch | longest context |")
        print("|---|---|---|---|---|---|---|---|---|")
        for model in MODELS:
            for gpus in GPUS:
                print(row(model, gpus, plan(binary, model, machine, gpus)))
        print("\n| model | GPUs | strategy | GB a GPU: weights + KV + other | positions/s | largest batch |")
        print("|---|---|---|---|---|---|")
        for model in DENOISERS:
            for gpus in GPUS:
                print(denoiser_row(model, gpus, plan(binary, model, machine, gpus, DENOISED_SEQUENCES)))


if __name__ == "__main__":
    main()

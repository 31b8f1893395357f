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
MACHINES = [("dgx-h100", "80 GB"), ("mi300x", "192 GB")]
GPUS = [1, 2, 4, 8]
SEQUENCES, CONTEXT = 64, 4096

HEAD = f"""# Placements

Made by tools/docs/make_placements.py from `sluice plan placement MODEL --hardware PROFILE --gpus N`: {SEQUENCES} sequences
of {CONTEXT:,} positions, weights as stored, 90 % of a GPU's memory, experts alike. Times are the cost model's with published
figures at their best ([STUDIES.md](STUDIES.md#placement)), not measured: what they are good for is comparing rows. The
longest context is what memory holds for one sequence a group, whatever the model was trained for."""


def plan(binary, model, machine, gpus):
    done = subprocess.run(
        [binary, "plan", "placement", ROOT / "configs/models" / model, "--hardware",
         ROOT / "configs/profiles" / f"{machine}.json", "--gpus", str(gpus), "--max-num-seqs", str(SEQUENCES),
         "--context", str(CONTEXT), "--json"],
        capture_output=True, text=True, check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def row(model, gpus, report):
    cells = [model, str(gpus)]
    if report["best"] is None:
        return "| " + " | ".join(cells + [report["reason"], "", "", "", "", "", ""]) + " |"
    best = report["strategies"][report["best"]]
    name = best["strategy"]
    if name == "hybrid":
        name += f" tp{best['tensor_parallel']} dp{best['data_parallel']}"
    memory = best["gpu_bytes"]
    work = memory["activations"] + memory["buffers"] + memory["runtime"]
    cells += [
        name, f"{memory['weights'] / 1e9:.1f} + {memory['kv'] / 1e9:.1f} + {work / 1e9:.1f}",
        f"{best['decode']['step_s'] * 1e3:.2f}", f"{best['decode']['tokens_per_s']:,.0f}",
        str(report["queue_depth"]), f"{best['most_sequences']:,}", f"{best['longest_context']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


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


if __name__ == "__main__":
    main()

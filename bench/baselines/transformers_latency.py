"""Times a transformers model with random weights of a true shape, as `sluice bench latency` does.

    python3 transformers_latency.py CONFIG_DIR [--batch-size 8] [--mode batched|serial]
                                    [--input-len 1024] [--output-len 32] [--layers N]

Prints one line of JSON. batched: one KV cache for all sequences, a step makes a token for each.
serial: one sequence after the other, as a loop over requests runs them; the same tokens in all.
Weights are bf16 on the GPU, decoding is greedy, attention is SDPA, the experts are computed as
transformers chooses for itself. Needs torch, transformers and a CUDA device.
"""

import argparse
import json
import statistics
import time

import torch
import transformers


def load(config_dir, layers):
    config = transformers.AutoConfig.from_pretrained(config_dir)
    if layers:
        config.num_hidden_layers = layers
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.eval()


def generate(model, prompts, new_tokens):
    """Greedy decoding by hand; seconds until the first token, and of each one after it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model(prompts, use_cache=True, logits_to_keep=1)
    tokens = out.logits[:, -1].argmax(-1, keepdim=True)
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    steps = []
    for _ in range(new_tokens - 1):
        start = time.perf_counter()
        out = model(tokens, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        torch.cuda.synchronize()
        steps.append(time.perf_counter() - start)
    return first, steps


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_dir")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--mode", choices=["batched", "serial"], default="batched")
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=32)
    parser.add_argument("--layers", type=int, help="run the first N layers only")
    arguments = parser.parse_args()

    model = load(arguments.config_dir, arguments.layers)
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (arguments.batch_size, arguments.input_len)
    prompts = torch.randint(model.config.vocab_size, shape, generator=generator, device="cuda")
    batches = [prompts] if arguments.mode == "batched" else list(prompts.split(1))

    with torch.inference_mode():
        generate(model, batches[0], 4)
        start = time.perf_counter()
        runs = [generate(model, batch, arguments.output_len) for batch in batches]
        total = time.perf_counter() - start
    steps = [seconds for _, run in runs for seconds in run]
    decoded = len(steps) * batches[0].shape[0]
    print(
        json.dumps(
            {
                "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
                "model": arguments.config_dir.rstrip("/").rsplit("/", 1)[-1],
                "layers": model.config.num_hidden_layers,
                "device": torch.cuda.get_device_name(),
                "mode": arguments.mode,
                "batch": arguments.batch_size,
                "prompt_tokens": arguments.input_len,
                "output_tokens": arguments.output_len,
                "ttft_ms": statistics.median(first for first, _ in runs) * 1e3,
                "tpot_ms": statistics.median(steps) * 1e3,
                "decode_tokens_per_s": decoded / sum(steps),
                "tokens_per_s": arguments.batch_size * arguments.output_len / total,
                "peak_memory_bytes": torch.cuda.max_memory_allocated(),
                "decode_step_s": steps,
            }
        )
    )


if __name__ == "__main__":
    main()

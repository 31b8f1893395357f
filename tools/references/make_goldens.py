"""Computes golden.safetensors for checkpoints in the Hugging Face layout with transformers.

    python3 make_goldens.py CHECKPOINT_DIR ... [--out DIR]

Each checkpoint is loaded from its files, as a user loads it, in float32 on the CPU. Written are the
prompt ids of the golden that is already there (or two random rows of 40 tokens), the full logits and
the greedy continuation of row 0. Needs torch, transformers and safetensors.
"""

import argparse
import os

import torch
import transformers
from safetensors.torch import load_file, save_file


def prompt_ids(folder, vocab_size):
    path = os.path.join(folder, "golden.safetensors")
    if os.path.exists(path):
        return load_file(path)["input_ids"].long()
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, vocab_size, (2, 40), generator=generator)


def compute(folder, new_tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = prompt_ids(folder, model.config.vocab_size)
    with torch.no_grad():
        logits = model(ids).logits.float()
        text = model.generate(
            ids[:1],
            attention_mask=torch.ones_like(ids[:1]),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return {
        "input_ids": ids.int().contiguous(),
        "logits": logits.contiguous(),
        "greedy_ids": text[0, ids.shape[1] :].int().contiguous(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--out", help="folder for NAME.safetensors; default: into each checkpoint")
    parser.add_argument("--new-tokens", type=int, default=24)
    arguments = parser.parse_args()
    for folder in arguments.checkpoints:
        golden = compute(folder, arguments.new_tokens)
        name = os.path.basename(os.path.normpath(folder))
        path = (
            os.path.join(arguments.out, name + ".safetensors")
            if arguments.out
            else os.path.join(folder, "golden.safetensors")
        )
        save_file(golden, path, {"transformers": transformers.__version__})
        print(name, tuple(golden["logits"].shape), "->", path)


if __name__ == "__main__":
    main()

"""Writes a checkpoint of random bf16 weights in the true shapes of a config, as transformers saves one.

    python3 random_checkpoint.py CONFIG_DIR OUT_DIR [--layers N]

Needs torch, transformers and a CUDA device that holds the weights.
"""

import argparse

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config_dir")
    parser.add_argument("out_dir")
    parser.add_argument("--layers", type=int, help="the first N layers only")
    arguments = parser.parse_args()
    config = transformers.AutoConfig.from_pretrained(arguments.config_dir)
    if arguments.layers:
        config.num_hidden_layers = arguments.layers
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(arguments.out_dir, max_shard_size="4GB")


if __name__ == "__main__":
    main()

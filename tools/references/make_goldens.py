"""Makes golden checkpoints with transformers.

    python3 make_goldens.py [--make NAME ... | --make all | --make native] [CHECKPOINT_DIR ...]
                            [--out DIR]

--make writes the tiny models of tiny_models.py to DIR/NAME, then computes their goldens; native are
those of native_models.py, which are too large to be kept. Otherwise
golden.safetensors is computed for checkpoints that are there. Either way the checkpoint is loaded
from its files, as a user loads it, in float32 on the CPU; an fp8 one from its de-quantised weights.
Written are the prompt ids of the golden that is already there (or two random rows of 40 tokens),
the full logits and the greedy continuation of row 0. Needs torch, transformers and safetensors.
"""

import argparse
import json
import os
import tempfile
import zlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from native_models import NATIVE_MODELS
from tiny_models import MODELS as TINY_MODELS
from transformers.models.glm4_moe import modeling_glm4_moe
from transformers.models.llama import modeling_llama

BLOCK = 128
MODELS = TINY_MODELS | NATIVE_MODELS


def fill(model, seed, deviation):
    """Random matrices of that deviation, norms near 1, biases near 0; rounded to bf16."""
    generator = torch.Generator().manual_seed(seed)

    def random(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 1:
                tensor.copy_((1 if "norm" in name else 0) + 0.1 * random(tensor))
            else:
                tensor.copy_(random(tensor) * deviation)
        for name, tensor in model.named_buffers():
            if "e_score_correction_bias" in name:
                tensor.copy_(0.05 * random(tensor))


def read_json(path):
    with open(path) as file:
        return json.load(file)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def write_older_config(folder):
    """config.json as transformers 4 wrote it."""
    path = os.path.join(folder, "config.json")
    config = read_json(path)
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    if "attn_config" in config:
        config["attn_config"]["rope_theta"] = theta
    else:
        config["rope_theta"] = theta
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = {"type": rope.pop("rope_type")} | rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.46.0"
    write_json(path, config)


def quantise(folder, kept):
    """Stores projections as e4m3 with a scale for each block of 128x128, but for modules `kept`."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {}
    for name, tensor in load_file(path).items():
        quantised = "proj.weight" in name and not any(name.startswith(k + ".") for k in kept)
        if not quantised:
            tensors[name] = tensor
            continue
        rows, columns = tensor.shape
        packed = torch.empty(tensor.shape, dtype=torch.float8_e4m3fn)
        scales = torch.empty((rows + BLOCK - 1) // BLOCK, (columns + BLOCK - 1) // BLOCK)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                block = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
                values = tensor[block].float()
                scales[i, j] = values.abs().max() / 448.0
                packed[block] = (values / scales[i, j]).to(torch.float8_e4m3fn)
        tensors[name] = packed
        tensors[name + "_scale_inv"] = scales
    save_file(tensors, path, {"format": "pt"})
    config = read_json(os.path.join(folder, "config.json"))
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": kept,
    }
    write_json(os.path.join(folder, "config.json"), config)


def dequantise(folder, target):
    """Writes the fp8 checkpoint in `folder` to `target` with every weight in float32."""
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    plain = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        plain[name] = tensor.float()
        if tensor.dtype == torch.float8_e4m3fn:
            scales = tensors[name + "_scale_inv"]
            rows = torch.arange(tensor.shape[0]) // BLOCK
            columns = torch.arange(tensor.shape[1]) // BLOCK
            plain[name] *= scales[rows][:, columns]
    save_file(plain, os.path.join(target, "model.safetensors"), {"format": "pt"})
    config = read_json(os.path.join(folder, "config.json"))
    del config["quantization_config"]
    write_json(os.path.join(target, "config.json"), config)


def use_partial_rotary():
    """Lets the llama model turn a share of each head, as GLM-4 does."""
    modeling_llama.apply_rotary_pos_emb = modeling_glm4_moe.apply_rotary_pos_emb
    rotary = modeling_glm4_moe.Glm4MoeRotaryEmbedding.__dict__["compute_default_rope_parameters"]
    modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters = rotary


def make(name, out):
    class_name, arguments, how = MODELS[name]
    folder = os.path.join(out, name)
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**arguments)
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    fill(model, seed, how.get("deviation", 0.15))
    model.to(torch.bfloat16).save_pretrained(folder)
    # transformers 5 does not read the rope_theta inside attn_config.
    nested = "attn_config" in arguments
    if how.get("older") and not nested:
        write_older_config(folder)
    if "fp8" in how:
        quantise(folder, how["fp8"])
    golden = compute(folder, prompt_ids(folder), 24, how)
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    if how.get("older") and nested:
        write_older_config(folder)
    if how.get("drop_empty"):
        path = os.path.join(folder, "model.safetensors")
        kept = {key: tensor for key, tensor in load_file(path).items() if tensor.numel() > 0}
        save_file(kept, path, {"format": "pt"})
    print(name, tuple(golden["logits"].shape), golden["greedy_ids"].tolist())


def prompt_ids(folder):
    path = os.path.join(folder, "golden.safetensors")
    if os.path.exists(path):
        return load_file(path)["input_ids"].long()
    vocab_size = read_json(os.path.join(folder, "config.json"))["vocab_size"]
    return torch.randint(3, vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))


def compute(folder, ids, new_tokens, how):
    if "quantization_config" in read_json(os.path.join(folder, "config.json")):
        with tempfile.TemporaryDirectory() as plain:
            dequantise(folder, plain)
            return compute(plain, ids, new_tokens, how)
    if how.get("partial"):
        use_partial_rotary()
    options = {"dtype": torch.float32}
    if "experts" in how:
        options["experts_implementation"] = how["experts"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--make", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", help="folder for NAME or NAME.safetensors")
    parser.add_argument("--new-tokens", type=int, default=24)
    arguments = parser.parse_args()
    # The one that changes the llama model's code comes last.
    groups = {"all": TINY_MODELS, "native": NATIVE_MODELS}
    names = [name for made in arguments.make for name in groups.get(made, [made])]
    for name in sorted(names, key=lambda name: MODELS[name][2].get("partial", False)):
        make(name, arguments.out)
    for folder in arguments.checkpoints:
        golden = compute(folder, prompt_ids(folder), arguments.new_tokens, {})
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

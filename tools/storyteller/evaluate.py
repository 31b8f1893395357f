#!/usr/bin/env python3
"""Measures a storyteller checkpoint with transformers in float32, and writes the references that the engine is tested against.

    evaluate.py CHECKPOINT --heldout DIR --report OUT.json       loss, bits per byte and expert load over every held-out part
    evaluate.py CHECKPOINT --text FILE --reference OUT.json      the loss of one text: what `sluice verify --text` must give
    evaluate.py CHECKPOINT --greedy OUT.json                     greedy continuations of prompts and chats, token by token
    evaluate.py CHECKPOINT --samples OUT.txt                     sampled answers, to read

The saved bf16 weights are up-cast to float32 and every product is a true float32 one (TF32 off). The loss of a text: tokenise it
as one stream, no token before it; cut the stream into windows of 2,048 tokens, the last one shorter (one of a single token is
skipped); run each window alone; predict every token of a window but its first; average the negative log-likelihood, in nats, over
all predicted tokens. Needs torch, transformers.
"""

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 2048
GREEDY_TOKENS = 64
# A reference must not turn on rounding: a continuation is kept only if its two best logits never come closer than this.
SMALLEST_MARGIN = 0.01
# A model this small soon repeats itself when greedy, and a loop tests little: of the continuations left, those with the most
# distinct tokens are kept.
PROMPTS_KEPT, CHATS_KEPT = 4, 2

PROMPTS = [
    "Once upon a time there was a little",
    "The old woman looked at the fox and said,",
    '"Come along," said the Mole,',
    "It was a dark night, and the wind",
    "Alice was beginning to get very tired of",
    "The King had three sons, and",
    '"Holmes," said I,',
    "In the morning they all went down to the sea",
    "There was once a miller who",
    "Dorothy and the Scarecrow",
    "The train was late, and Passepartout",
    "Sara looked out of the window and saw",
    "He opened the box and found inside it",
    '"What is your name?" asked the',
    "Long ago, in a country far to the north, there lived a shoemaker",
    "They sat round the fire while the old man told them",
    "The ship struck upon a rock, and",
    '"I don\'t believe you," said Peter. "You',
    "The Rabbit ran down the lane as fast as he could, for",
    "Mr. Toad drove his motor-car",
    "Chapter the first. The strange house at the end of the",
    "Sherlock Holmes took the letter and",
    "Tom crept out of the window at midnight with a dead cat and",
    "In the garden there was a door, and behind the door",
]
CHATS = [
    [{"role": "user", "content": "Tell me a story about a fox."}],
    [{"role": "system", "content": "You are a storyteller."}, {"role": "user", "content": "Tell me a story about a princess."}],
    [{"role": "user", "content": "Continue: The old king was dying, and he called his sons to him."}],
    [
        {"role": "user", "content": "Tell me a story."},
        {"role": "assistant", "content": "Once upon a time there was a mouse who lived in a mill."},
        {"role": "user", "content": "Go on."},
    ],
    [{"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "Tell me a story about a wolf."}],
    [{"role": "user", "content": "Tell me a story about a ship."}],
    [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": "Tell me about Alice."}],
    [{"role": "user", "content": "Write a story about a detective."}],
    [{"role": "user", "content": "Continue: The door opened, and a tall man in a grey cloak came in out of the rain."}],
    [
        {"role": "user", "content": "Tell me a story about a dragon."},
        {"role": "assistant", "content": "There was once a dragon who was afraid of mice."},
        {"role": "user", "content": "What happened next?"},
    ],
    [{"role": "user", "content": "Continue: Once upon a time there was a tailor who had a talking cat."}],
]


@dataclass
class Score:
    nll: float = 0.0  # nats, summed over the predicted tokens
    tokens: int = 0
    predicted: int = 0
    predicted_bytes: int = 0
    load: list = field(default_factory=list)  # per layer: assignments of each expert over all tokens

    def add(self, other):
        self.nll += other.nll
        self.tokens += other.tokens
        self.predicted += other.predicted
        self.predicted_bytes += other.predicted_bytes
        self.load = [a + b for a, b in zip(self.load, other.load)] if self.load else other.load


class Model:
    def __init__(self, folder):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(self.device).eval()

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    @torch.no_grad()
    def score(self, text):
        """The loss of one text by the definition above, and how often its tokens chose each expert."""
        config = self.net.config
        stream = self.encode(text)
        score = Score(tokens=len(stream))
        for begin in range(0, len(stream), WINDOW):
            ids = torch.tensor([stream[begin : begin + WINDOW]], device=self.device)
            if ids.shape[1] < 2:
                continue
            out = self.net(input_ids=ids, output_router_logits=True, use_cache=False)
            score.nll += F.cross_entropy(out.logits[0, :-1].double(), ids[0, 1:], reduction="sum").item()
            score.predicted += ids.shape[1] - 1
            score.predicted_bytes += len(self.tokenizer.decode(ids[0, 1:]).encode())
            chosen = [logits.topk(config.num_experts_per_tok, dim=-1).indices.flatten() for logits in out.router_logits]
            load = [torch.bincount(c, minlength=config.num_experts).cpu() for c in chosen]
            score.load = [a + b for a, b in zip(score.load, load)] if score.load else load
        return score

    @torch.no_grad()
    def greedy(self, prompt_ids):
        """-> (the next GREEDY_TOKENS tokens by argmax, end tokens treated as any other; the smallest lead of the best logit)."""
        ids, margin = torch.tensor([prompt_ids], device=self.device), math.inf
        for _ in range(GREEDY_TOKENS):
            best = self.net(input_ids=ids, use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            ids = torch.cat([ids, best.indices[:1][None]], dim=1)
        return ids[0, len(prompt_ids) :].tolist(), margin

    def continuation(self, prompt_ids):
        ids, margin = self.greedy(prompt_ids)
        return {"prompt_ids": prompt_ids, "ids": ids, "text": self.tokenizer.decode(ids), "min_margin": round(margin, 6)}

    def render(self, messages):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def report(model, folder):
    books, total = {}, Score()
    for path in sorted(folder.glob("*.txt")):
        score = model.score(path.read_text(encoding="utf-8"))
        books[path.stem] = {"predicted_tokens": score.predicted, "mean_nll": round(score.nll / score.predicted, 4)}
        total.add(score)
    layers = []
    for load in total.load:
        share = load.double() / load.sum() * len(load)  # 1 for every expert when even
        layers.append(
            {
                "min_over_mean": round(share.min().item(), 3),
                "max_over_mean": round(share.max().item(), 3),
                "coefficient_of_variation": round(share.std(unbiased=False).item(), 3),
            }
        )
    return {
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "window": WINDOW,
        "tokens": total.tokens,
        "predicted_tokens": total.predicted,
        "mean_nll": round(total.nll / total.predicted, 6),
        "bits_per_byte": round(total.nll / math.log(2) / total.predicted_bytes, 4),
        "bytes_per_token": round(total.predicted_bytes / total.predicted, 3),
        "expert_load": layers,
        "books": books,
    }


def provenance(model):
    return {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "dtype": "float32", "tf32": False}


def reference(model, path):
    score = model.score(path.read_text(encoding="utf-8"))
    return {
        "file": path.name,
        "window": WINDOW,
        "tokens": score.tokens,
        "predicted_tokens": score.predicted,
        "mean_nll": score.nll / score.predicted,
        "bits_per_byte": score.nll / math.log(2) / score.predicted_bytes,
        **provenance(model),
    }


def greedy(model):
    prompts = [{"prompt": p, **model.continuation(model.encode(p))} for p in PROMPTS]
    chats = []
    for messages in CHATS:
        rendered = model.render(messages)
        chats.append({"messages": messages, "rendered": rendered, **model.continuation(model.encode(rendered))})
    return {
        "new_tokens": GREEDY_TOKENS,
        "stops_at_eos": False,
        **provenance(model),
        "prompts": telling(prompts, PROMPTS_KEPT),
        "chats": telling(chats, CHATS_KEPT),
    }


def telling(continuations, count):
    clear = [c for c in continuations if c["min_margin"] >= SMALLEST_MARGIN]
    assert len(clear) >= count, "too many close calls: add prompts"
    return sorted(clear, key=lambda c: -len(set(c["ids"])))[:count]


def samples(model):
    """Answers under the checkpoint's own generation_config.json, then prompts continued greedily, as text."""
    torch.manual_seed(20)
    parts = []
    for text in [model.render(c) for c in CHATS] + PROMPTS:
        ids = torch.tensor([model.encode(text)], device=model.device)
        for kind, options in (("sampled", {}), ("greedy", {"do_sample": False, "temperature": None, "top_p": None})):
            out = model.net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=400, **options)[0, ids.shape[1] :]
            parts.append(f"==== {kind}, {len(out)} tokens\n{text}>>>{model.tokenizer.decode(out)}\n")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--heldout", type=Path, help="prepare.py's folder of held-out parts")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--greedy", type=Path)
    parser.add_argument("--samples", type=Path)
    args = parser.parse_args()
    model = Model(args.checkpoint)

    def write(path, value):
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")

    if args.report:
        write(args.report, report(model, args.heldout))
    if args.reference:
        write(args.reference, reference(model, args.text))
    if args.greedy:
        write(args.greedy, greedy(model))
    if args.samples:
        write(args.samples, samples(model))


if __name__ == "__main__":
    main()

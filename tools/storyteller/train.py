#!/usr/bin/env python3
"""Trains the storyteller on one GPU and keeps the checkpoint with the lowest held-out loss.

    train.py DATA OUT [--epochs N] [--lr X] [--weight-decay X] [--dropout X] ...

DATA is what prepare.py wrote. OUT becomes a Hugging Face checkpoint folder in bf16, tokeniser included, with OUT.jsonl, the log,
beside it. The defaults are how models/storyteller was made.

The model is transformers' own Qwen3MoeForCausalLM. Three things differ from a plain training loop, all because the text is small
(2.7 M tokens) and the model is too (7 M parameters):

  - All token ids live on the GPU and a batch is one gather, since a data loader would take longer than the step.
  - Training computes every expert for every token and masks the ones not chosen. It is the same function as routing (the others'
    weight is zero), four times the arithmetic, and still far faster than sorting tokens at these widths.
  - The text is read some twenty times over, so regularisation decides the held-out loss: windows from anywhere, dropout on both
    branches of each layer, averaged weights (EMA), and above all a weight decay some twenty times the usual 0.1.

Needs torch, transformers, tokenizers, numpy.
"""

import argparse
import copy
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func
from transformers.utils.logging import disable_progress_bar

WINDOW = 2048
# Rows of a batch share one length, drawn anew for each step with these odds: short ones to learn the beginning of a context,
# long ones so that every position to 2,048 is trained.
LENGTHS, LENGTH_ODDS = (512, 1024, 2048), (0.25, 0.25, 0.5)
BUDGET_BYTES = 16_000_000


def make_config(tokenizer):
    return Qwen3MoeConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=64,
        intermediate_size=256,  # of a dense layer, and there is none; as wide as the four experts that a token meets
        norm_topk_prob=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        # No pad_token_id: it would freeze the input embedding of <|endoftext|>, which ends every document here.
    )


def dense_experts(self, hidden_states, top_k_index, top_k_weights):
    """Qwen3MoeExperts.forward with all experts computed. hidden_states [tokens, hidden]; the rest [tokens, top_k]."""
    tokens, experts, width = hidden_states.shape[0], self.num_experts, self.intermediate_dim
    weights = hidden_states.new_zeros(tokens, experts).scatter(1, top_k_index, top_k_weights.to(hidden_states.dtype))
    gate, up = F.linear(hidden_states, self.gate_up_proj.flatten(0, 1)).view(tokens, experts, 2 * width).chunk(2, dim=-1)
    inner = F.silu(gate) * up * weights[:, :, None]  # [tokens, experts, width]
    return inner.flatten(1) @ self.down_proj.transpose(1, 2).flatten(0, 1)


def add_dropout(model, p):
    """Dropout on the embedding and on what each branch adds to the residual stream; active in train() only."""

    def drop(module, inputs, output):
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (F.dropout(output[0], p), *output[1:])
        return F.dropout(output, p)

    for module in (model.model.embed_tokens, *(b for l in model.model.layers for b in (l.self_attn, l.mlp))):
        module.register_forward_hook(drop)


class Batches:
    """Draws batches of windows: mostly prose from anywhere, a share of chats from their beginnings."""

    def __init__(self, data, args):
        def load(name):
            return torch.from_numpy(np.load(data / f"{name}.npy").astype(np.int64)).cuda()

        self.generator = torch.Generator("cuda").manual_seed(args.seed)
        self.host = np.random.default_rng(args.seed)
        self.prose, self.chat, self.chat_starts = load("prose"), load("chat"), load("chat_starts")
        self.chat_loss = load("chat_loss").bool()
        self.chat_share, self.batch_tokens = args.chat_share, args.batch_tokens

    def next(self):
        """-> inputs [rows, length], targets [rows, length] with -100 where no loss counts."""
        length = int(self.host.choice(LENGTHS, p=LENGTH_ODDS))
        rows = self.batch_tokens // length
        chats = int(self.host.binomial(rows, self.chat_share))
        steps = torch.arange(length + 1, device="cuda")
        begin = torch.randint(len(self.prose) - length, (rows - chats,), generator=self.generator, device="cuda")
        prose = self.prose[begin[:, None] + steps]
        pick = torch.randint(len(self.chat_starts), (chats,), generator=self.generator, device="cuda")
        place = (self.chat_starts[pick][:, None] + steps) % len(self.chat)
        windows = torch.cat([prose, self.chat[place]])
        counts = torch.cat([torch.ones_like(prose, dtype=torch.bool), self.chat_loss[place]])
        return windows[:, :-1], windows[:, 1:].masked_fill(~counts[:, 1:], -100)


def held_out_windows(data, tokenizer):
    """Every held-out part in windows of 2,048, padded on the right -> ids and targets, both [windows, 2048]."""
    ids, targets = [], []
    for path in sorted((data / "heldout").glob("*.txt")):
        stream = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids
        for i in range(0, len(stream), WINDOW):
            window = stream[i : i + WINDOW]
            pad = WINDOW - len(window)
            ids.append(window + [0] * pad)
            targets.append(window[1:] + [-100] * (pad + 1))
    return torch.tensor(ids).cuda(), torch.tensor(targets).cuda()


def forward_loss(model, ids, targets, reduction="mean"):
    """-> cross entropy, load-balancing loss (transformers' function, layer by layer, averaged; the number of experts per token
    when perfectly even). transformers itself pools the layers first, which lets one layer's idle expert hide behind another's."""
    with torch.autocast("cuda", torch.bfloat16):
        out = model.model(input_ids=ids, output_router_logits=True, use_cache=False)
        logits = model.lm_head(out.last_hidden_state)
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction)
    config = model.config
    balance = [load_balancing_loss_func((l.float(),), config.num_experts, config.num_experts_per_tok) for l in out.router_logits]
    return loss, torch.stack(balance).mean()


@torch.no_grad()
def held_out_loss(model, ids, targets):
    model.eval()
    total = sum(forward_loss(model, i, t, "sum")[0] for i, t in zip(ids.split(16), targets.split(16)))
    return (total / (targets >= 0).sum()).item()


def parameter_groups(model, weight_decay):
    """Matrices decay; norms and the router do not."""
    decay, keep = [], []
    for name, p in model.named_parameters():
        (keep if p.dim() == 1 or "mlp.gate." in name else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def save(model, config, data, out):
    checkpoint = Qwen3MoeForCausalLM(config)
    checkpoint.load_state_dict(model.state_dict())
    checkpoint.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(data / name, out / name)  # the last one replaces what save_pretrained guessed
    size = sum(f.stat().st_size for f in out.iterdir())
    assert size <= BUDGET_BYTES, f"the checkpoint takes {size} bytes, {BUDGET_BYTES} allowed: shrink the model"


def train(args):
    torch.manual_seed(args.seed)
    disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    config = make_config(tokenizer)

    ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts)
    model = Qwen3MoeForCausalLM(copy.deepcopy(config)).cuda()
    model.set_experts_implementation("dense")
    average = copy.deepcopy(model)
    add_dropout(model, args.dropout)
    print(f"{args.out.name}: {sum(p.numel() for p in model.parameters())} parameters", flush=True)

    batches = Batches(args.data, args)
    held_ids, held_targets = held_out_windows(args.data, tokenizer)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.weight_decay), lr=args.lr, betas=(0.9, 0.95), fused=True)
    epoch_steps = int(len(batches.prose) / (args.batch_tokens * (1 - args.chat_share)))  # once over the prose
    steps, warmup = int(args.epochs * epoch_steps), 150

    best, worse, begun = math.inf, 0, time.time()
    log = (args.out.parent / f"{args.out.name}.jsonl").open("w")
    for step in range(steps):
        share = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * share

        model.train()
        loss, balance = forward_loss(model, *batches.next())
        (loss + config.router_aux_loss_coef * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = min(args.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)

        if (step + 1) % args.eval_every and step + 1 != steps:
            continue
        held = held_out_loss(average, held_ids, held_targets)
        row = dict(step=step + 1, epoch=round((step + 1) / epoch_steps, 2), train=round(loss.item(), 4), held_out=round(held, 4),
                   balance=round(balance.item(), 4), seconds=round(time.time() - begun, 1))
        print(args.out.name, json.dumps(row), flush=True)
        log.write(json.dumps(row) + "\n")
        if held < best:
            best, worse = held, 0
            save(average, config, args.data, args.out)
        else:
            worse += 1
            if worse >= args.patience:
                break
    print(f"{args.out.name}: best held-out loss {best:.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that prepare.py wrote")
    parser.add_argument("out", type=Path, help="the checkpoint folder to write")
    parser.add_argument("--epochs", type=float, default=24, help="times over the prose")
    parser.add_argument("--lr", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=2.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--chat-share", type=float, default=0.25, help="share of the rows that are chats")
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--ema", type=float, default=0.995, help="how much of the averaged weights a step keeps")
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--patience", type=int, default=6, help="evaluations without a lower loss before stopping")
    parser.add_argument("--seed", type=int, default=20)
    train(parser.parse_args())


if __name__ == "__main__":
    main()

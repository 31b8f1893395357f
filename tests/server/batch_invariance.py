#!/usr/bin/env python3
"""Asks a running server whether a request's answer depends on what runs beside it.

Some requests are answered one at a time, then again and again among others that are drawn at
random, and must say the same to the last bit of every logprob. The server is one of any device:
`sluice serve MODEL --batch-invariant` on a GPU, `sluice serve MODEL` on the CPU.

  python3 tests/server/batch_invariance.py http://127.0.0.1:8000 --batches 2,16,17,64,256
"""

import argparse
import concurrent.futures
import json
import random
import sys
import time
import urllib.request


def complete(url, body):
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)["choices"][0]


def draw_request(rng, model, vocab, longest, output_len):
    """A prompt of token ids, greedy or not, with logprobs. Lengths lie evenly on a logarithm."""
    length = round(longest ** rng.random())
    return {
        "model": model,
        "prompt": [rng.randrange(vocab) for _ in range(length)],
        "max_tokens": rng.randint(1, output_len),
        "temperature": rng.choice([0, 0.8]),
        "seed": rng.randrange(2**31),
        "logprobs": 5,
        "ignore_eos": True,
    }


def check(url, model, batches, probes=12, vocab=4000, longest=200, output_len=24, rounds=1, seed=1):
    """Returns how many answers were compared and, for each that differs, what it was asked."""
    rng = random.Random(seed)
    asked = [draw_request(rng, model, vocab, longest, output_len) for _ in range(probes)]
    alone = [complete(url, body) for body in asked]
    compared, different = 0, []
    for batch in batches * rounds:
        mates = [draw_request(rng, model, vocab, longest, output_len) for _ in range(batch)]
        chosen = rng.sample(range(probes), min(probes, max(1, batch // 2)))
        bodies = [(None, body) for body in mates[len(chosen):]] + [(i, asked[i]) for i in chosen]
        rng.shuffle(bodies)
        with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
            answers = pool.map(lambda entry: complete(url, entry[1]), bodies)
            for (probe, body), answer in zip(bodies, answers):
                if probe is None:
                    continue
                compared += 1
                if answer != alone[probe]:
                    different.append({"batch": batch, "prompt_tokens": len(body["prompt"]),
                                      "temperature": body["temperature"]})
    return compared, different


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--batches", default="1,2,3,7,8,9,16,17,33,64,65,100,128,129,200,256")
    parser.add_argument("--probes", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=4000, help="prompts hold ids below this")
    parser.add_argument("--longest", type=int, default=200, help="tokens of the longest prompt")
    parser.add_argument("--output-len", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with urllib.request.urlopen(arguments.url + "/v1/models", timeout=60) as answer:
        model = json.load(answer)["data"][0]["id"]
    start = time.monotonic()
    compared, different = check(arguments.url, model, [int(b) for b in arguments.batches.split(",")],
                                arguments.probes, arguments.vocab, arguments.longest,
                                arguments.output_len, arguments.rounds, arguments.seed)
    print(json.dumps({"model": model, "compared": compared, "different": len(different),
                      "seconds": round(time.monotonic() - start, 1), "examples": different[:10]}))
    return 1 if different or compared == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

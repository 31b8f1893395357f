"""Times torch's own kernels at the shapes that `sluice bench` times ours at.

    python3 torch_kernels.py [attention] [experts] [router]

Prints one line of JSON with a row for each shape: the median microseconds of a call over graph
replays, and all samples. attention: scaled_dot_product_attention by flash and by cuDNN, causal
prefill in TFLOP/s and decoding of contiguous keys and values in GB/s. experts: torch._grouped_mm
over rows that are sorted already, so that routing, sorting and combining are NOT counted. router:
softmax, top-k, renormalising and counting as separate operations. Needs torch and a CUDA device.
"""

import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

REPLAYS = 20
# Data behind which nothing of an earlier call is in the second-level cache.
CACHE_BYTES = 200 << 20


def measure(calls):
    """Samples of the microseconds of a call: `calls` are recorded together and replayed."""
    calls = list(calls)
    while len(calls) < 10:
        calls += calls
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    samples = []
    for i in range(REPLAYS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            samples.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return samples


def copies(size):
    return max(1, -(-CACHE_BYTES // size))


def row(kernel, shape, samples, **rates):
    seconds = statistics.median(samples) * 1e-6
    computed = {name: amount / seconds for name, amount in rates.items()}
    return {"kernel": kernel, "us": seconds * 1e6, **shape, **computed, "samples_us": samples}


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def attention():
    heads, kv_heads, head_dim = 32, 4, 128
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for name, backend in backends.items():
        for length in (2048, 4096, 8192, 16384):
            q = random(1, heads, length, head_dim)
            k, v = (random(1, kv_heads, length, head_dim) for _ in range(2))

            def prefill():
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            operations = 2 * heads * head_dim * length * length
            shape = {"batch": 1, "length": length}
            yield row(f"sdpa_{name}_prefill", shape, measure([prefill]), operations_per_s=operations)
        for batch, length in ((1, 16384), (8, 4096), (64, 4096), (64, 16384)):
            q = random(batch, heads, 1, head_dim)
            k, v = (random(batch, kv_heads, length, head_dim) for _ in range(2))

            def decode():
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            size = 2 * k.numel() * k.element_size()
            shape = {"batch": batch, "length": length}
            yield row(f"sdpa_{name}_decode", shape, measure([decode]), bytes_per_s=size)


def experts():
    models = {
        "Qwen3-30B-A3B": (128, 8, 2048, 768),
        "Qwen1.5-MoE-A2.7B": (60, 4, 2048, 1408),
    }
    for model, (count, top_k, hidden, width) in models.items():
        for tokens in (1, 8, 32, 64, 128, 512, 2048, 8192):
            ids = torch.stack([torch.randperm(count)[:top_k] for _ in range(tokens)])
            ends = torch.bincount(ids.flatten(), minlength=count).cumsum(0).to("cuda", torch.int32)
            calls = []
            size = count * 3 * hidden * width * 2
            for _ in range(copies(size)):
                gate_up = random(count, hidden, 2 * width)
                down = random(count, width, hidden)
                x = random(tokens * top_k, hidden)

                def run(x=x, gate_up=gate_up, down=down):
                    gate, up = torch._grouped_mm(x, gate_up, ends).chunk(2, -1)
                    torch._grouped_mm(F.silu(gate) * up, down, ends)

                calls.append(run)
            yield row("torch_grouped_mm", {"model": model, "tokens": tokens}, measure(calls))


def router():
    for tokens in (1, 64, 1024, 8192):
        logits = torch.randn(tokens, 128, device="cuda")

        def run():
            weights, ids = F.softmax(logits, -1).topk(8, -1)
            weights /= weights.sum(-1, keepdim=True)
            counts = torch.zeros(128, device="cuda", dtype=torch.int32)
            ones = torch.ones(1, device="cuda", dtype=torch.int32).expand(ids.numel())
            counts.index_add_(0, ids.flatten(), ones)

        yield row("torch_router", {"tokens": tokens, "experts": 128, "top_k": 8}, measure([run]))


def main():
    parts = {"attention": attention, "experts": experts, "router": router}
    torch.manual_seed(0)
    rows = []
    for name in sys.argv[1:] or parts:
        if name not in parts:
            sys.exit(__doc__)
        rows += parts[name]()
    device = torch.cuda.get_device_name()
    print(json.dumps({"peer": f"torch {torch.__version__}", "device": device, "rows": rows}))


if __name__ == "__main__":
    main()

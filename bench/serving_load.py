"""Loads a server until it must refuse, or lets its clients vanish, and says whether it held.

    python3 bench/serving_load.py overload    [--seconds 120] [--times 10] [--turns 12]
    python3 bench/serving_load.py disconnects [--requests 10000]
    python3 bench/serving_load.py memory      [--requests 20000]

Starts `sluice serve` with the embedded model and prints a JSON object of what was measured; "held" says of each limit
whether it was kept, and the exit code is 1 when one was not. --sluice names the program. What follows -- goes to serve,
as `-- MODEL --expert-slots 16`, and comes before what is said here for it. The load shares the server's cores, or with
--load-cores N has N of its own that the server may not use, and as many threads. --name NAME also keeps the object
under bench/results/, from a clean checkout, as record.py does; --commit and --out are record.py's.

overload     arrivals at so many times the best goodput, for --seconds at a stretch: when refusals come, the longest
             stall of a stream, memory from second to second. Then goodput against the best, which is that of closed
             loops of --at-once, in turns: shared machines change their pace within a minute, so that a stretch is
             held against the loops right before and after it, each as long, and the median of --turns counts
disconnects  clients that go while they connect, send the head, send the body, wait, have the first token, and in
             mid-stream, beside one that stays, whose longest wait for a first token and longest stall behind one are
             taken; then nothing of them may be left in /metrics
memory       short requests on connections that are kept, growth of the resident memory behind a tenth as many, and
             behind a thousand at least, in which every thread takes its memory
"""

import argparse
import asyncio
import collections
import itertools
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

import record

MOST_REFUSAL_MS = 5 if os.cpu_count() >= 16 else 20  # at the 99th percentile; the load shares the cores
LEAST_GOODPUT = 0.95  # of the best
MOST_GROWTH = 1024  # bytes a request
MOST_STALL_MS = 1000  # between two pieces of a stream
SEED = 1


class Server:
    """A server of its own; its address and its figures."""

    def __init__(self, arguments, flags):
        command = [arguments.sluice, "serve", "--port", "0", "--log-level", "warning", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: os.sched_setaffinity(0, arguments.server_cores))
        for line in self.process.stdout:
            if line.startswith("listening on http://"):
                self.host, port = line.split("://")[1].strip().rsplit(":", 1)
                self.port = int(port)
                break
        else:
            sys.exit("serving_load.py: the server did not come up")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        with urllib.request.urlopen(f"{self.url}/v1/models") as page:
            self.most_positions = json.load(page)["data"][0]["max_model_len"]
        self.seeds = itertools.count(SEED)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    def metrics(self):
        """The sum of the samples of each metric."""
        totals = collections.Counter()
        with urllib.request.urlopen(f"{self.url}/metrics") as page:
            for line in page.read().decode().splitlines():
                if line and not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    totals[name.split("{")[0]] += float(value)
        return totals

    def await_idle(self, seconds=30):
        """Waits until nothing is left of any request but this one for /metrics; returns what is left else."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.metrics()
            left = {"running": now["vllm:num_requests_running"], "waiting": now["vllm:num_requests_waiting"],
                    "kv_cache_usage": now["vllm:kv_cache_usage_perc"],
                    "waiting_prompt_tokens": now["sluice:waiting_prompt_tokens"],
                    "in_progress": now["sluice:http_requests_in_progress"] - 1,
                    "connections": now["sluice:http_connections"] - 1}
            left = {name: count for name, count in left.items() if count}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def bench(server, arguments, *flags):
    """One run of bench serve, with prompts of its own: those of a run before would be found in the prefix cache."""
    command = [arguments.sluice, "bench", "serve", "--base-url", server.url, "--ignore-eos", "--json",
               "--client-threads", str(max(1, arguments.load_cores)),
               "--vocab-size", str(arguments.vocab_size), "--seed", str(next(server.seeds)), *map(str, flags)]
    return record.run_json(command)


def stolen_seconds():
    """That a core had something to run and a hypervisor ran others on it, in the mean of all cores."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") / os.cpu_count()


def resident_bytes(pid):
    """Of a process and those that it started: on a GPU the model has a process of its own. Pages that several map
    count for each."""
    folder = pathlib.Path(f"/proc/{pid}")
    try:
        own = int((folder / "statm").read_text().split()[1]) * resource.getpagesize()
        children = [child for task in (folder / "task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return 0
    return own + sum(map(resident_bytes, children))


class MemoryWatch(threading.Thread):
    """Samples the server's resident memory every second: the kernel is asked, since the server has enough to do."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.samples, self.done = server, [resident_bytes(server.process.pid)], threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(1):
            self.samples.append(resident_bytes(self.server.process.pid))

    def stop(self):
        self.done.set()
        self.join()
        return self.samples


def overload(arguments, flags):
    lengths = ["--random-input-len", arguments.input_len, "--random-output-len", arguments.output_len]
    at_once = arguments.at_once
    own = {"--max-num-seqs": max(1, at_once // 2), "--max-num-queued-reqs": at_once}
    own_flags = [str(part) for flag in own.items() if flag[0] not in flags for part in flag]
    with Server(arguments, [*own_flags, *flags]) as server:
        def closed_loop(count):
            return bench(server, arguments, "--num-prompts", max(2 * at_once, round(count)),
                         "--max-concurrency", at_once, *lengths)

        def arrivals(rate, seconds):
            return bench(server, arguments, "--num-prompts", round(rate * seconds), "--request-rate", rate, *lengths)

        closed_loop(0)
        capacity = closed_loop(4 * at_once)["request_throughput"]
        rate = arguments.times * capacity
        watch = MemoryWatch(server)
        stolen, begin = stolen_seconds(), time.monotonic()
        stretch = arrivals(rate, arguments.seconds)
        stolen_share = (stolen_seconds() - stolen) / (time.monotonic() - begin)
        memory = watch.stop()
        seconds = arguments.seconds / arguments.turns
        best, loaded = [closed_loop(capacity * seconds)["output_throughput"]], []
        for _ in range(arguments.turns):
            loaded.append(arrivals(rate, seconds)["output_throughput"])
            best.append(closed_loop(capacity * seconds)["output_throughput"])
        left = server.await_idle()
    shares = [2 * here / (before + after) for before, here, after in zip(best, loaded, best[1:])]
    refusals = [kind for kind in stretch["failures"] if kind["error"].startswith("HTTP 429")]
    others = [kind for kind in stretch["failures"] if kind not in refusals]
    waits = sorted(one["e2el_ms"] for one in stretch["requests"] if one.get("error", "").startswith("HTTP 429"))
    refusal_p99 = waits[int(0.99 * len(waits))] if waits else 0
    middle = len(memory) // 2
    result = {"offered_requests_per_s": rate,
              "requests": stretch["num_prompts"], "completed": stretch["completed"], "refused": len(waits),
              "output_tokens_per_s": stretch["output_throughput"],
              "best_output_tokens_per_s": best, "loaded_output_tokens_per_s": loaded, "goodput_shares": shares,
              "goodput_share": statistics.median(shares),
              "refusal_median_ms": waits[len(waits) // 2] if waits else 0, "refusal_p99_ms": refusal_p99,
              "refusal_most_ms": waits[-1] if waits else 0, "other_failures": others,
              "p99_ttft_ms": stretch["p99_ttft_ms"], "p99_itl_ms": stretch["p99_itl_ms"],
              "longest_stall_ms": stretch["max_itl_ms"], "resident_bytes": memory,
              # What tells a slow server from a load that came late, or from a machine that others used.
              "load_late_mean_ms": stretch["mean_lateness_ms"], "load_late_p99_ms": stretch["p99_lateness_ms"],
              "stolen_share": stolen_share}
    result["held"] = {"goodput": result["goodput_share"] >= LEAST_GOODPUT,
                      "refusals": bool(waits) and refusal_p99 <= MOST_REFUSAL_MS,
                      "only_refusals": not others,
                      "stall": result["longest_stall_ms"] <= MOST_STALL_MS,
                      "memory": max(memory[middle:]) <= 1.05 * max(memory[: middle + 1]),
                      "nothing_left": not left}
    return result


PHASES = ("connecting", "head", "body", "waiting", "first token", "mid-stream")


def completion(server, **fields):
    """The head and the body of a request whose answer may be long, for a model with any tokenizer or none."""
    prompt = [1, 2, 3, 4, 5, 6]
    body = json.dumps({"prompt": prompt, "max_tokens": min(400, server.most_positions - len(prompt)),
                       "ignore_eos": True, **fields}).encode()
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode(), body


async def read_some(reader):
    return await asyncio.wait_for(reader.read(2048), 60)


async def begin_to_read(reader):
    """What comes first of an answer has to be one that goes well."""
    start = await read_some(reader)
    if not start.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered by {start[:200]}")
    return start


async def vanish(server, phase, draw):
    """One client that goes at a phase of its request, in one of the ways that sockets have."""
    stream = draw.random() < 0.8
    head, body = completion(server, stream=stream, n=draw.choice([1, 1, 2]))
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        if phase == "head":
            writer.write(head[: draw.randrange(1, len(head))])
        elif phase == "body":
            writer.write(head + body[: draw.randrange(len(body))])
        elif phase != "connecting":
            writer.write(head + body)
        if phase == "waiting":
            await asyncio.sleep(draw.random() * 0.02)
        elif phase == "first token":
            await begin_to_read(reader) if stream else await asyncio.sleep(0.05)
        elif phase == "mid-stream":
            if stream:
                await begin_to_read(reader)
                for _ in range(draw.randrange(1, 11)):
                    await read_some(reader)
        else:
            await writer.drain()
    finally:
        if draw.random() < 0.5:
            writer.transport.abort()  # as a process that dies: what it was sent may be answered by a reset
        else:
            writer.close()


async def stay(server, others_are_gone):
    """A client that reads one stream after another; returns the longest times in ms that it waited: for a first
    token, and then between two pieces of a stream."""
    longest = {"longest_stall_ms": 0.0, "longest_first_token_ms": 0.0}
    head, body = completion(server, stream=True)
    while not others_are_gone.is_set():
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            writer.write(head + body)
            last = time.monotonic()
            text = b""
            while b"[DONE]" not in text and not others_are_gone.is_set():
                piece = await (read_some(reader) if text else begin_to_read(reader))
                if b"data:" in piece:  # and not the head alone, which does not wait for a token
                    now = time.monotonic()
                    which = "longest_stall_ms" if b"data:" in text else "longest_first_token_ms"
                    longest[which] = max(longest[which], 1e3 * (now - last))
                    last = now
                text += piece
                if not piece or b'"error"' in text:
                    raise RuntimeError(f"a stream that nobody left ended with {text[-200:]}")
        finally:
            writer.close()
    return longest


async def vanish_all(server, requests):
    """How many clients went at each phase, what failed, and how long the one that stays waited, if it could."""
    draw = random.Random(SEED)
    counts = collections.Counter()
    places = asyncio.Semaphore(64)
    gone = asyncio.Event()

    async def one(phase, own):
        async with places:
            await vanish(server, phase, own)
            counts[phase] += 1

    stays = asyncio.create_task(stay(server, gone))
    tasks = [one(draw.choice(PHASES), random.Random(draw.random())) for _ in range(requests)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    gone.set()
    longest = (await asyncio.gather(stays, return_exceptions=True))[0]
    failures = [repr(error) for error in [*outcomes, longest] if isinstance(error, Exception)]
    return counts, failures, longest if isinstance(longest, dict) else {"longest_stall_ms": None}


def disconnects(arguments, flags):
    with Server(arguments, flags) as server:
        asyncio.run(vanish_all(server, min(500, arguments.requests)))
        server.await_idle()
        before = server.metrics()
        begin = time.monotonic()
        counts, failures, longest = asyncio.run(vanish_all(server, arguments.requests))
        seconds = time.monotonic() - begin
        left = server.await_idle()
        after = server.metrics()
        alive = server.process.poll() is None
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    result = {"requests": arguments.requests, "seconds": seconds, "phases": counts, "client_failures": failures[:5],
              "left": left, **longest,
              "open_files_grown": after["process_open_fds"] - before["process_open_fds"],
              "resident_bytes_grown": grown}
    stall = longest["longest_stall_ms"]
    result["held"] = {"nothing_left": not left, "alive": alive, "stall": stall is not None and stall <= MOST_STALL_MS,
                      "files": result["open_files_grown"] <= 0, "clients": not failures}
    return result


def memory(arguments, flags):
    load = ["--max-concurrency", 64, "--random-input-len", 16, "--random-output-len", 4]
    with Server(arguments, flags) as server:
        bench(server, arguments, "--num-prompts", max(1000, arguments.requests // 10), *load)
        before = server.metrics()["process_resident_memory_bytes"]
        done = bench(server, arguments, "--num-prompts", arguments.requests, *load)
        left = server.await_idle()
        after = server.metrics()["process_resident_memory_bytes"]
    result = {"requests": arguments.requests, "completed": done["completed"], "resident_bytes_before": before,
              "resident_bytes_after": after, "bytes_a_request": (after - before) / arguments.requests,
              "requests_per_s": done["request_throughput"]}
    result["held"] = {"memory": after - before < MOST_GROWTH * arguments.requests, "nothing_left": not left,
                      "completed": done["completed"] == arguments.requests}
    return result


def main():
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, flags = sys.argv[1:split], sys.argv[split + 1 :]
    # What says nothing of what is measured, and does not belong to a result.
    keeping = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    keeping.add_argument("--sluice", default="build/release/bin/sluice")
    keeping.add_argument("--name")
    keeping.add_argument("--commit")
    keeping.add_argument("--out")
    measured = ["bench/serving_load.py", *keeping.parse_known_args(own)[1], *sys.argv[split:]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     parents=[keeping])
    parser.add_argument("what", choices=("overload", "disconnects", "memory"))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--turns", type=int, default=12,
                        help="of overload, which share --seconds, with closed loops between")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=64,
                        help="requests of the closed loop; half of them are the batch")
    parser.add_argument("--vocab-size", type=int, default=1024, help="prompts are ids below this")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--load-cores", type=int, default=0,
                        help="cores that the load has for itself; 0 = it shares those of the server")
    arguments = parser.parse_args(own)
    cores = sorted(os.sched_getaffinity(0))
    if not 0 <= arguments.load_cores < len(cores):
        parser.error(f"--load-cores {arguments.load_cores}: there are {len(cores)}, and the server needs one")
    arguments.server_cores = cores[: len(cores) - arguments.load_cores]
    os.sched_setaffinity(0, cores[-arguments.load_cores :])  # this process, and what it starts but the server
    arguments.sluice = str(pathlib.Path(arguments.sluice).resolve())
    if arguments.requests is None:
        arguments.requests = 20000 if arguments.what == "memory" else 10000
    if arguments.name and arguments.commit is None:
        record.require_clean_checkout()
    measure = {"overload": overload, "disconnects": disconnects, "memory": memory}[arguments.what]
    result = measure(arguments, flags)
    print(json.dumps(result, indent=1))
    if arguments.name:
        record.write_result(arguments.name, measured, [result], commit=arguments.commit, out=arguments.out)
    sys.exit(0 if all(result["held"].values()) else 1)


if __name__ == "__main__":
    main()

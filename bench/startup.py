"""Times a server from its start until it serves, and keeps the result under bench/results/.

    python3 bench/startup.py NAME [--runs N] [--sluice PROGRAM] [--commit HASH] [--out DIR] -- MODEL [flags of serve]

The model's files are read once before, so that they lie in the page cache. A run starts `sluice serve`, asks /health
until it answers 200, and then for one token; it counts seconds from the start of the process to either, and ends the
server. Needs a clean checkout, or --commit, as record.py does.
"""

import argparse
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import record

POLL_SECONDS = 0.02
MOST_SECONDS = 300


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def read_once(model):
    """Bytes of the model's weights."""
    total = 0
    for path in pathlib.Path(model).glob("*.safetensors"):
        with path.open("rb") as file:
            while chunk := file.read(64 << 20):
                total += len(chunk)
    return total


def is_ready(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def first_token(address):
    with urllib.request.urlopen(f"{address}/v1/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 1}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        json.load(answer)


def run(sluice, flags):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    begin = time.perf_counter()
    server = subprocess.Popen([sluice, "serve", *flags, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        while not is_ready(address):
            if server.poll() is not None or time.perf_counter() - begin > MOST_SECONDS:
                sys.exit("startup.py: the server did not come up")
            time.sleep(POLL_SECONDS)
        ready = time.perf_counter() - begin
        first_token(address)
        return {"ready_seconds": ready, "first_token_seconds": time.perf_counter() - begin}
    finally:
        server.terminate()
        server.wait()


def main():
    if "--" not in sys.argv:
        sys.exit(__doc__)
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sluice", default="build/release/bin/sluice")
    parser.add_argument("--commit")
    parser.add_argument("--out")
    arguments = parser.parse_args(sys.argv[1:split])
    flags = sys.argv[split + 1 :]
    if arguments.commit is None:
        record.require_clean_checkout()
    weight_bytes = read_once(flags[0])
    runs = [{"weight_bytes": weight_bytes, **run(arguments.sluice, flags)} for _ in range(arguments.runs)]
    print(f"ready after {statistics.median(r['ready_seconds'] for r in runs):.2f} s")
    record.write_result(
        arguments.name, ["sluice", "serve", *flags], runs, commit=arguments.commit, out=arguments.out
    )


if __name__ == "__main__":
    main()

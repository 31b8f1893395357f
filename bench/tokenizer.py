"""Times one-thread encoding beside the `tokenizers` library, and keeps the result under bench/results/.

    .venv/bin/python bench/tokenizer.py NAME [--rounds N] [--strings N]

For each published style of tests/data/tokenizer/ both encode the same strings one after another, in turns: a round
of ours, a round of theirs, and so on. Ours is timed in build/release/bin/tokenizer_pipe around Tokenizer::Encode,
theirs around Tokenizer.encode from Python, offsets and all, as there is no other call for one string. A round before
the first is not counted, so that both have their caches filled. Writes bench/results/NAME.json with the seconds of
every round. Needs a clean checkout, built.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/tokenizer"))

import pipe  # noqa: E402
import record  # noqa: E402
import tokenizers  # noqa: E402
from strings import Strings, make_strings  # noqa: E402

STYLES = ["neox", "qwen2", "mixtral", "deepseek_v3", "dbrx"]


def machine():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def texts_of(kind, count):
    if kind == "mixed":
        return [string.decode("utf-8", errors="replace") for string in make_strings(count, "bench", [])]
    source = Strings("bench")
    return [source.book_text() for _ in range(count)]


def time_library(library, texts):
    start = time.perf_counter()
    for text in texts:
        library.encode(text, add_special_tokens=False)
    return time.perf_counter() - start


def compare(style, kind, count, rounds):
    path = ROOT / "tests/data/tokenizer" / f"{style}_style.json"
    library = tokenizers.Tokenizer.from_file(str(path))
    texts = texts_of(kind, count)
    data = pipe.pack_texts([text.encode() for text in texts])
    time_library(library, texts)
    ours, theirs = [], []
    for _ in range(rounds):
        lines = pipe.run("time", path, data, 2).decode().splitlines()
        ours.append(float(lines[1].split()[0]))
        theirs.append(time_library(library, texts))
    run = {
        "style": style,
        "texts": kind,
        "strings": count,
        "bytes": sum(len(text.encode()) for text in texts),
        "tokenizers_version": tokenizers.__version__,
        "machine": machine(),
        "seconds": ours,
        "tokenizers_seconds": theirs,
        "ratio": statistics.median(theirs) / statistics.median(ours),
    }
    print(f"{style} {kind}: {run['ratio']:.1f} times as fast")
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--strings", type=int, default=5000)
    arguments = parser.parse_args()
    record.require_clean_checkout()
    runs = [
        compare(style, kind, arguments.strings, arguments.rounds) for kind in ("mixed", "books") for style in STYLES
    ]
    record.write_result(arguments.name, ["bench/tokenizer.py", *sys.argv[1:]], runs)


if __name__ == "__main__":
    main()

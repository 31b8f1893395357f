"""Runs build/release/bin/tokenizer_pipe; its head says what it reads and writes."""

import os
import pathlib
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_TOKENIZER_PIPE", str(ROOT / "build/release/bin/tokenizer_pipe"))


def pack_texts(texts):
    return struct.pack("<I", len(texts)) + b"".join(struct.pack("<I", len(t)) + t for t in texts)


def pack_ids(lists):
    return struct.pack("<I", len(lists)) + b"".join(struct.pack(f"<I{len(ids)}i", len(ids), *ids) for ids in lists)


def run(mode, tokenizer, data, *arguments):
    command = [BINARY, mode, str(tokenizer), *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')}")
    return done.stdout


class Reader:
    def __init__(self, data):
        self.data = data
        self.position = 0

    def number(self):
        (number,) = struct.unpack_from("<I", self.data, self.position)
        self.position += 4
        return number

    def ids(self):
        count = self.number()
        ids = list(struct.unpack_from(f"<{count}i", self.data, self.position))
        self.position += 4 * count
        return ids

    def text(self):
        size = self.number()
        self.position += size
        return self.data[self.position - size : self.position].decode("utf-8")

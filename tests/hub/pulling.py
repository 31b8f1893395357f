"""The binary with a home of its own, and models for the hub."""

import json
import os
import pathlib
import random
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SLUICE_BIN", str(ROOT / "build/release/bin/sluice"))
MODEL = "tiny/Storyteller"


def files_of_the_storyteller():
    """The embedded model as a repository has it, with files beside it that no pull needs."""
    folder = ROOT / "models/storyteller"
    names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"]
    files = {name: (folder / name).read_bytes() for name in names}
    files[".gitattributes"] = b"*.safetensors filter=lfs\n"
    files["pytorch_model.bin"] = b"not wanted" * 1000
    files["original/params.json"] = b"{}"
    files["empty.json"] = b""
    files["model.safetensors"] = (folder / "model.safetensors").read_bytes()
    return files


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


class Sluice:
    """Runs the binary with nothing of this machine's environment that names models or hubs."""

    def __init__(self, hub, tmp_path):
        self.models = tmp_path / "models"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "SSL_CERT", "XDG_CACHE")) and name != "MODEL_DIR"
        }
        self.environment.update(
            HOME=str(tmp_path / "home"), MODEL_DIR=str(self.models), HF_ENDPOINT=hub.endpoint
        )

    def start(self, *arguments, **environment):
        return subprocess.Popen(
            [BINARY, *map(str, arguments)],
            env={**self.environment, **environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def pull(self, *arguments, **environment):
        done = self("pull", *arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

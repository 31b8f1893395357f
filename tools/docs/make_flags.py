"""Prints docs/FLAGS.md from the binary's own help.

    python3 tools/docs/make_flags.py build/release/bin/sluice > docs/FLAGS.md
"""

import subprocess
import sys

COMMANDS = [
    "serve", "run", "chat", "verify", "bench latency", "bench kv-cache", "bench throughput", "bench serve",
    "bench offload", "bench kernels", "bench attention", "bench router", "doctor", "pull", "profile", "trace record",
    "trace info",
    "trace convert", "trace synth", "plan theory", "plan offload", "plan placement", "plan predict", "study load-balance",
    "study prefetch", "study run",
]


def help_of(binary, command):
    done = subprocess.run(
        [binary, *command.split(), "--help"], capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def flags_page(binary):
    parts = [
        "# Flags",
        "Made from `sluice COMMAND --help` by tools/docs/make_flags.py. Every flag can also stand in a\n"
        "YAML file given with `--config`; the command line wins over the file.",
    ]
    parts += [f"## sluice {command}\n\n```text\n{help_of(binary, command)}\n```" for command in COMMANDS]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(flags_page(sys.argv[1]))

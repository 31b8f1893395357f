"""Makes a tokenizer with as many tokens as a large model's vocabulary, for models of random weights.

    python3 bench/wide_tokenizer.py FROM TO TOKENS

TO becomes FROM, a folder with a tokenizer.json, whose vocabulary is filled up with words to TOKENS ids. A model of
random weights draws any id of its vocabulary; with a tokenizer that ends earlier most of its tokens would have no
text, and a stream of them no events to time.
"""

import json
import pathlib
import shutil
import sys


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, target, tokens = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    taken = set(vocabulary.values()) | {token["id"] for token in tokenizer.get("added_tokens", [])}
    vocabulary.update({f"\u0120w{i}": i for i in range(tokens) if i not in taken})
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()

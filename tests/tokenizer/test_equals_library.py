"""Compares encoding and decoding with the `tokenizers` library, id by id and character by character."""

import json
import random

import pipe
import pytest
from strings import make_strings
from tokenizers import Tokenizer

DATA = pipe.ROOT / "tests/data/tokenizer"
# How many strings each published style is compared on; the second row are variants of the first.
STYLES = {"neox": 20000, "qwen2": 20000, "mixtral": 20000, "deepseek_v3": 20000, "dbrx": 20000}
STYLES |= {"gpt2": 3000, "llama2": 3000, "llama3": 3000}
BLOCK_STRINGS = 1000
# Blocks that no style has, in the place of a style's own.
REGEX = {"Regex": r"\p{N}+|\s*\r?\n|[aeiou]{2}"}
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(behavior, invert=False, pattern=REGEX):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


PRETOKENIZERS = {
    **{f"split_{b}_{i}": split(b, i) for b in BEHAVIORS for i in (False, True)},
    **{f"split_string_{b}": split(b, False, {"String": "an"}) for b in BEHAVIORS},
    **{f"punctuation_{b}": {"type": "Punctuation", "behavior": b} for b in BEHAVIORS},
    "digits": {"type": "Digits", "individual_digits": False},
    "digits_individual": {"type": "Digits", "individual_digits": True},
    "whitespace": {"type": "Whitespace"},
    "whitespace_split": {"type": "WhitespaceSplit"},
    "prefix_space": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
}
CHARACTER_BLOCKS = {
    **{f"metaspace_{s}_{c}": {"pre_tokenizer": metaspace(s, c)} for s in ("always", "first", "never") for c in (False, True)},
    "metaspace_words": {"pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("first"))},
    "metaspace_digits": {"pre_tokenizer": sequence("pretokenizers", metaspace("always"), {"type": "Digits", "individual_digits": True})},
    "unk": {"model": {"byte_fallback": False, "fuse_unk": False}},
    "unk_fused": {"model": {"byte_fallback": False, "fuse_unk": True}},
    "no_unk": {"model": {"byte_fallback": False, "unk_token": None}},
    "whole_words": {"model": {"ignore_merges": True}, "pre_tokenizer": metaspace("always")},
    "replace_regex": {"normalizer": sequence("normalizers", {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "\u2581"})},
    "replace_removes": {"normalizer": {"type": "Replace", "pattern": {"String": "e"}, "content": ""}},
    "decode_metaspace": {"decoder": metaspace("always")},
    "decode_metaspace_never": {"decoder": metaspace("never")},
    "decode_metaspace_bytes": {"decoder": sequence("decoders", {"type": "ByteFallback"}, metaspace("first"), {"type": "Fuse"})},
    "decode_no_strip": {"decoder": sequence("decoders", {"type": "ByteFallback"}, {"type": "Replace", "pattern": {"Regex": "\u2581+"}, "content": "  "})},
    "decode_strip_two": {"decoder": sequence("decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0})},
}


def id_lists(tokenizer, count, seed):
    """Ids of any tokens in any order, so that bytes of characters stand alone."""
    source = random.Random(seed)
    size = tokenizer.get_vocab_size()
    # The low ids hold the bytes in every style.
    return [[int(source.random() * (size if source.random() < 0.4 else 300)) for _ in range(1 + i % 14)] for i in range(count)]


def compare(path, count, seed):
    library = Tokenizer.from_file(str(path))
    added = [token.content for token in library.get_added_tokens_decoder().values()]
    strings = make_strings(count, seed, added)
    lists = id_lists(library, count // 4, seed)
    reader = pipe.Reader(pipe.run("compare", path, pipe.pack_texts(strings) + pipe.pack_ids(lists)))

    texts = [string.decode("utf-8", errors="replace") for string in strings]
    plain = [e.ids for e in library.encode_batch_fast(texts, add_special_tokens=False)]
    wrapped = [e.ids for e in library.encode_batch_fast(texts, add_special_tokens=True)]
    kept = library.decode_batch(wrapped, skip_special_tokens=False)
    skipped = library.decode_batch(wrapped, skip_special_tokens=True)
    kept_lists = library.decode_batch(lists, skip_special_tokens=False)
    skipped_lists = library.decode_batch(lists, skip_special_tokens=True)
    library.encode_special_tokens = True
    as_text = [e.ids for e in library.encode_batch_fast(texts, add_special_tokens=False)]
    for i, text in enumerate(texts):
        assert reader.ids() == plain[i], f"ids of {text!r}"
        assert reader.ids() == as_text[i], f"ids, special tokens as text, of {text!r}"
        assert reader.ids() == wrapped[i], f"wrapped ids of {text!r}"
        assert reader.text() == kept[i], f"decoding of {text!r}"
        assert reader.text() == skipped[i], f"decoding without special tokens of {text!r}"
    for i, ids in enumerate(lists):
        assert reader.text() == kept_lists[i], f"decoding of {ids}"
        assert reader.text() == skipped_lists[i], f"decoding without special tokens of {ids}"


@pytest.mark.parametrize("style", STYLES)
def test_style(style):
    compare(DATA / f"{style}_style.json", STYLES[style], style)


def changed_file(tmp_path, style, changes):
    document = json.loads((DATA / f"{style}_style.json").read_text())
    for key, value in changes.items():
        if key == "model":
            document["model"].update(value)
        else:
            document[key] = value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_pretokenizer(tmp_path, name):
    step = PRETOKENIZERS[name]
    if step["type"] != "ByteLevel":
        step = sequence("pretokenizers", step, BYTE_LEVEL)
    compare(changed_file(tmp_path, "dbrx", {"pre_tokenizer": step}), BLOCK_STRINGS, name)


@pytest.mark.parametrize("name", CHARACTER_BLOCKS)
def test_character_block(tmp_path, name):
    compare(changed_file(tmp_path, "mixtral", CHARACTER_BLOCKS[name]), BLOCK_STRINGS, name)


@pytest.mark.parametrize("name", ["digits", "punctuation_Isolated", "whitespace", "whitespace_split"])
def test_classes_of_every_code_point(tmp_path, name):
    # Each word gets a space before it, so that the ids show every cut.
    step = sequence("pretokenizers", PRETOKENIZERS[name], {**BYTE_LEVEL, "add_prefix_space": True})
    code_points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["a".join(map(chr, code_points[i : i + 512])) for i in range(0, len(code_points), 512)]
    path = changed_file(tmp_path, "dbrx", {"pre_tokenizer": step, "added_tokens": []})
    library = Tokenizer.from_file(str(path))
    reader = pipe.Reader(pipe.run("compare", path, pipe.pack_texts([t.encode() for t in texts]) + pipe.pack_ids([])))
    for text, expected in zip(texts, library.encode_batch_fast(texts)):
        assert reader.ids() == expected.ids, f"from U+{ord(text[0]):04X} on"
        reader.ids(), reader.ids(), reader.text(), reader.text()

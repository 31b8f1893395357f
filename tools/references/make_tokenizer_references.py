#!/usr/bin/env python3
"""Makes the references that the tokenizer's tests compare with.

    make_tokenizer_references.py HELDOUT.txt STORYTELLER_TOKENIZER.json OUT

Trains two small byte-level vocabularies on HELDOUT.txt, one cut and normalised as Qwen2's is and one as GPT-2's is,
and writes under OUT:

    qwen2_style.json gpt2_style.json    the trained tokenizer.json files
    cases.json                          texts, and for each tokenizer what the `tokenizers` library makes of them

Needs tokenizers (written with 0.23.3). The same input gives the same bytes.
"""

import argparse
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(tokenizer, size, text):
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def qwen2_style(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 1400, text)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [
            AddedToken("<tool_call>", normalized=False),
            AddedToken("<tool_call>\n\n", normalized=False),
            AddedToken("caf\u00e9", normalized=True),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=True),
            AddedToken("two words", normalized=True),
        ]
    )
    return tokenizer


def gpt2_style(text):
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 1000, text)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", rstrip=True), "<s>"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "<|endoftext|>")]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<s> $A <|endoftext|>", pair="<s> $A $B:1 <|endoftext|>", special_tokens=ids
            ),
        ]
    )
    return tokenizer


def texts(heldout):
    yield from ("", " ", "a", "\n", "\u0000", "Hello world", " Hello  world ", "'s", "I'LL we'Ve it'\u017f 'S 'D'")
    for start in range(0, len(heldout), 15000):
        yield heldout[start : start + 600]
    yield "def f(x):\n\treturn {k: v for k, v in x.items()}  # 3.14e-10\r\n\r\n\r\nif (a&&b||!c) { a[0]->b::c(); }\n"
    yield "1 12 123 1234567890 3.14 1,000,000 \u0663\u0664 \u00bd \u2167 \u0be8 x2y3 4th"
    yield "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\U0001f1eb\U0001f1f7 ok\U0001f44d\U0001f3fd!"
    yield "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \uf900\u2f800"
    yield "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd"
    yield "e\u0301 cafe\u0301 caf\u00e9 \u1e9b\u0323 q\u0323\u0307 q\u0307\u0323 A\u030a \u212b \u2126 \ufb01 \u0344 \u0958"
    yield "\u0001\u0002\u001b[31m\u007f\u0085\u00a0\u200b\u180e\ufeff\u2028\u2029\u3000x\u000b\u000cy"
    yield from (" " * n + "x" for n in (2, 3, 17, 64, 1000))
    yield from ("a" * 300, "\n" * 100 + " \n x", "\t \t\t  \r\n \n", "-" * 77 + "=" * 50 + "!?" * 60, "ab" * 200)
    yield "<|im_start|>user\nHi<|im_end|>\n<|endoftext|> <|endoftext|>  \n x <|im_start <|im_start|"
    yield "a <tool_call>\n\n b<tool_call>\n c <left> d <right>  e \u3000<left><right> \n f <right> <left> g"
    yield "word words sword word, a word_ \u00e9word word\u0301 word-word two words two  words caf\u00e9s cafe\u0301<s>x</s> <s>"
    yield "\U00010330\U0001d49c\U000e0041\U0010ffff \ufffd \ufffe"


def expected(tokenizer, text):
    row = {"ids": tokenizer.encode(text, add_special_tokens=False).ids}
    row["wrapped"] = tokenizer.encode(text).ids
    row["decoded"] = tokenizer.decode(row["ids"], skip_special_tokens=False)
    row["decoded_skip"] = tokenizer.decode(row["ids"], skip_special_tokens=True)
    tokenizer.encode_special_tokens = True
    row["ids_special_as_text"] = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=pathlib.Path)
    parser.add_argument("storyteller", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    heldout = args.heldout.read_text(encoding="utf-8")
    tokenizers = {"qwen2_style": qwen2_style(heldout), "gpt2_style": gpt2_style(heldout)}
    for name, tokenizer in tokenizers.items():
        tokenizer.save(str(args.out / f"{name}.json"), pretty=False)
    tokenizers["storyteller"] = Tokenizer.from_file(str(args.storyteller))
    cases = [
        {"text": text, **{name: expected(tokenizer, text) for name, tokenizer in tokenizers.items()}}
        for text in texts(heldout)
    ]
    (args.out / "cases.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

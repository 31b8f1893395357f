#!/usr/bin/env python3
"""Makes the references that the tokenizer's tests compare with.

    make_tokenizer_references.py HELDOUT.txt STORYTELLER_TOKENIZER.json CORPUS OUT

Trains small vocabularies, each in the pipeline of a published tokenizer.json: its normaliser, pre-tokeniser, model
options, post-processor, decoder and the kinds of its added tokens. Writes under OUT:

    NAME_style.json    the trained files: gpt2 and qwen2 on HELDOUT.txt, the others on the books of the folder CORPUS
                       (CC0) and generated text in many scripts
    cases.json         texts, and for gpt2, qwen2 and the storyteller what the `tokenizers` library makes of them

Needs tokenizers (written with 0.23.3). The same input gives the same bytes.
"""

import argparse
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizer"))
from strings import Strings  # noqa: E402

GPT4_PATTERN = QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")
DEEPSEEK_PATTERN = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
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


def training_text(corpus):
    """Lines of the books and of generated text, half a million characters of each."""
    source = Strings("training", lexicon=400)
    lines = []
    for path in sorted(corpus.glob("*.txt")):
        book = path.read_text(encoding="utf-8")
        lines += book[len(book) // 2 :][:18000].splitlines(keepends=True)
    size = 0
    while size < 500000:
        lines.append(source.text())
        size += len(lines[-1])
    return lines


def train_lines(tokenizer, size, lines, **options):
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    return tokenizer


def byte_level_style(lines, size, model=None, normalizer=None, splits=(), byte_level=None):
    tokenizer = Tokenizer(model or models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    byte_level = byte_level or pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level]) if splits else byte_level
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    return train_lines(tokenizer, size, lines, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def neox_style(lines):
    tokenizer = byte_level_style(
        lines, 3000, normalizer=normalizers.NFC(),
        byte_level=pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    tokenizer.add_tokens([AddedToken("|||EMAIL_ADDRESS|||", normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <|endoftext|>:0", pair="$A:0 <|endoftext|>:0 $B:1",
        special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
    )
    return tokenizer


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def deepseek_v3_style(lines):
    tokenizer = byte_level_style(
        lines, 3000, normalizer=normalizers.Sequence([]),
        splits=[split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK_PATTERN)],
    )
    tokenizer.add_special_tokens(["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"])
    tokenizer.add_special_tokens(["<\uff5c\u2581pad\u2581\uff5c>", AddedToken("<\uff5cplace\u2581holder\u2581no\u25810\uff5c>")])
    tokenizer.add_tokens(["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<think>"])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True)
    return tokenizer


def dbrx_style(lines):
    tokenizer = byte_level_style(lines, 3000, splits=[split(GPT4_PATTERN, "removed", invert=True)])
    tokenizer.add_special_tokens(["<|endoftext|>", "<|fim_prefix|>", "<|endofprompt|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def llama3_style(lines):
    tokenizer = byte_level_style(
        lines, 3000, model=models.BPE(ignore_merges=True), splits=[split(GPT4_PATTERN)]
    )
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
            ),
        ]
    )
    return tokenizer


def sentencepiece_style(lines, normalizer, pretokenizer):
    """Mixtral's: characters, with bytes for those that the vocabulary lacks."""
    # Trained on words, run on whole texts: as SentencePiece learns, no token but runs of marks has a mark inside.
    trainee = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trainee.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    runs = [" " * n for n in range(2, 17)]
    train_lines(trainee, 3500, lines, special_tokens=reserved, limit_alphabet=900)
    trained = json.loads(trainee.to_str())
    vocab, merges = trained["model"]["vocab"], [tuple(m) for m in trained["model"]["merges"]]
    mark = "\u2581"
    for run in runs:
        content = mark * len(run)
        vocab[content] = len(vocab)
        merges.append((mark * (len(run) // 2), mark * (len(run) - len(run) // 2)))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pretokenizer is not None:
        tokenizer.pre_tokenizer = pretokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def mixtral_style(lines):
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return sentencepiece_style(lines, normalizer, None)


def llama2_style(lines):
    return sentencepiece_style(lines, None, pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False))


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
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    heldout = args.heldout.read_text(encoding="utf-8")
    tokenizers = {"qwen2_style": qwen2_style(heldout), "gpt2_style": gpt2_style(heldout)}
    for name, tokenizer in tokenizers.items():
        tokenizer.save(str(args.out / f"{name}.json"), pretty=False)
    lines = training_text(args.corpus)
    for style in (neox_style, deepseek_v3_style, dbrx_style, llama3_style, mixtral_style, llama2_style):
        style(lines).save(str(args.out / f"{style.__name__}.json"), pretty=False)
    tokenizers["storyteller"] = Tokenizer.from_file(str(args.storyteller))
    cases = [
        {"text": text, **{name: expected(tokenizer, text) for name, tokenizer in tokenizers.items()}}
        for text in texts(heldout)
    ]
    (args.out / "cases.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

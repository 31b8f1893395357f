#!/usr/bin/env python3
"""Turns a folder of plain-text books into everything that training needs.

    prepare.py CORPUS OUT

Writes under OUT:

    tokenizer.json, tokenizer_config.json, generation_config.json   the tokeniser, trained on the training text only
    prose.npy         u16 [tokens]  the training text, one document a chapter, each ended by <|endoftext|>
    chat.npy          u16 [tokens]  passages of the training text in ChatML form, each chat ended by <|endoftext|>
    chat_loss.npy     bool [tokens] true where a token of chat.npy is the assistant's, so that its loss counts
    chat_starts.npy   u32 [chats]   where each chat begins in chat.npy
    heldout/BOOK.txt                the held-out tenth of each book
    heldout.txt                     100 kB of it, from ten books (tests/data/heldout.txt)
    chat_sample.txt                 the first chats as text, to look at

The same corpus gives the same bytes: every random choice comes from one seeded generator. Needs tokenizers, jinja2, numpy.
"""

import argparse
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 20
VOCABULARY = 4096  # all ids, special tokens included
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # the last ids, as in Qwen2's files

# The held-out part of a book: the paragraphs that begin between these shares of its bytes. Late enough that its people have
# been met, early enough that it is the story itself and not the notes that some editions put at the end.
HELD_OUT_FROM, HELD_OUT_TO = 0.72, 0.82

TEST_TEXT_BYTES = 100_000
TEST_TEXT_BOOKS = 10

# Qwen2's pre-tokeniser pattern, to the letter.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# ---- the text ----------------------------------------------------------------------------------------------------------------


def split_book(text):
    """-> (paragraphs before the held-out part, held-out paragraphs, paragraphs after it)."""
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
    sizes = [len(p.encode()) + 2 for p in paragraphs]
    starts = np.cumsum([0] + sizes[:-1]) / sum(sizes)
    first, last = np.searchsorted(starts, [HELD_OUT_FROM, HELD_OUT_TO])
    return paragraphs[:first], paragraphs[first:last], paragraphs[last:]


def is_heading(paragraph):
    """A chapter number, or a short line in title case without a full stop."""
    if re.fullmatch(r"[IVXLC]+", paragraph):
        return True
    words = re.findall(r"[A-Za-z']+", paragraph)
    return (
        0 < len(words) <= 12
        and paragraph[-1].isalnum()
        and all(w[0].isupper() for w in words if len(w) > 4)
        and words[0][0].isupper()
    )


def chapters(paragraphs):
    """Groups paragraphs into documents: a new one begins at a heading that does not follow another heading."""
    documents, after_heading = [[]], True
    for paragraph in paragraphs:
        heading = is_heading(paragraph)
        if heading and not after_heading:
            documents.append([])
        documents[-1].append(paragraph)
        after_heading = heading
    return [d for d in documents if d]


def test_text(held_out):
    """The first paragraphs of TEST_TEXT_BOOKS books that make up a tenth of TEST_TEXT_BYTES each."""
    names = sorted(held_out)
    picked = [names[i * len(names) // TEST_TEXT_BOOKS] for i in range(TEST_TEXT_BOOKS)]
    parts = []
    for name in picked:
        size = 0
        for paragraph in held_out[name]:
            if size >= TEST_TEXT_BYTES // TEST_TEXT_BOOKS:
                break
            size += len(paragraph.encode()) + 2
            parts.append(paragraph)
    return "\n\n".join(parts) + "\n", picked


# ---- the tokeniser -----------------------------------------------------------------------------------------------------------


def train_tokenizer(texts):
    """Byte-level BPE laid out as Qwen2's tokenizer.json: merges first, special tokens added after them."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    return tokenizer


def write_tokenizer(tokenizer, out):
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {t: tokenizer.token_to_id(t) for t in SPECIAL_TOKENS}
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(ids[t]): {
                "content": t,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for t in SPECIAL_TOKENS
        },
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {
        "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
        "temperature": 0.8,
        "top_p": 0.95,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


# ---- chat, made from the text itself -----------------------------------------------------------------------------------------

SYSTEMS = [
    "You are a storyteller.",
    "You tell stories.",
    "You are a helpful assistant.",
    "You are an old storyteller. Answer with a story.",
]
CONTINUE = ["Continue: {}", "Continue: {}", "Continue this story: {}", "Go on from here: {}", "What comes next? {}", "{}"]
ABOUT = [
    "Tell me a story about {}.",
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Write a story about {}.",
    "Can you tell me about {}?",
    "I should like to hear a story about {}.",
]
OPENERS = ["Tell me a story.", "Tell me a story", "Hello!", "Hi", "Hello, who are you?", "Begin a new story.", "Once upon a time"]
GO_ON = ["Go on.", "And then?", "What happened next?", "Continue.", "Tell me more."]

# A word after an article counts as a noun when one of these, or punctuation, follows it.
NOUN_FOLLOWERS = "was is were are had has of in on at and or who that which to with from came went said looked could would"
NOUN = re.compile(rf"\b(?:a|an|the|The|A|An) ([a-z]{{3,}})(?=[,.;:!?]| (?:{NOUN_FOLLOWERS.replace(' ', '|')})\b)")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
NOT_NOUNS = set(
    "other others first last same one two rest end way side time thing things kind sort moment more very next whole little "
    "old great matter fact day place part most least man".split()
)


@dataclass
class Passage:
    text: str
    opens_chapter: bool
    follows: "Passage | None" = None  # the passage right after this one in the same chapter


def passages(documents, rng):
    """Cuts each document's running text into neighbouring passages of roughly 60 to 220 words."""
    for document in documents:
        body = [p for p in document if not is_heading(p)]
        previous, taken, opens = None, [], True
        target = rng.randint(60, 220)
        for paragraph in body:
            taken.append(paragraph)
            words = sum(len(p.split()) for p in taken)
            if words < target:
                continue
            if words <= 330:  # one long paragraph can overshoot: a chat answer is no place for it
                passage = Passage("\n\n".join(taken), opens)
                if previous is not None:
                    previous.follows = passage
                previous = passage
                yield passage
            else:
                previous = None
            taken, opens, target = [], False, rng.randint(60, 220)


def subject(text, document_frequency):
    """The noun or name that marks this passage most: said early, said often, rare elsewhere."""
    early = " ".join(text.split()[:80])
    scores = Counter()
    for word, n in Counter(NOUN.findall(text)).items():
        if word not in NOT_NOUNS and word in early:
            article = "an" if word[0] in "aeiou" else "a"
            scores[f"{article} {word}"] = n * document_frequency[word]
    for name, n in Counter(NAME.findall(text)).items():
        if name in early:
            scores[name] = n * document_frequency[name]
    return max(sorted(scores), key=lambda s: scores[s]) if scores else None


def user_turn(passage, document_frequency, rng):
    """-> (what the user says, what is left of the passage for the answer), or None where no template fits."""
    if passage.opens_chapter and rng.random() < 0.5:
        return rng.choice(OPENERS), passage.text
    if rng.random() < 0.5:
        about = subject(passage.text, document_frequency)
        return (rng.choice(ABOUT).format(about), passage.text) if about else None
    sentences = re.split(r"(?<=[.!?][\"' ])(?=\S)|(?<=[.!?])\s+(?=[A-Z\"'])", passage.text)
    opening = passage.text[: sum(len(s) for s in sentences[: rng.randint(1, 2)])]
    cut = len(opening)
    while cut < len(passage.text) and not passage.text[cut].isspace():
        cut += 1  # never in the middle of a word
    opening, rest = passage.text[:cut].strip(), passage.text[cut:].strip()
    if not 3 <= len(opening.split()) <= 60 or len(rest.split()) < 30:
        return None
    return rng.choice(CONTINUE).format(opening), rest


def make_chats(documents, rng):
    pool = list(passages(documents, rng))
    seen_in = Counter(w for p in pool for w in set(re.findall(r"[A-Za-z]+", p.text)))
    rarity = Counter({w: float(np.log(len(pool) / n)) for w, n in seen_in.items()})
    chats = []
    for passage in pool:
        turn = user_turn(passage, rarity, rng)
        if turn is None:
            continue
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.2 else []
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
        while passage.follows is not None and rng.random() < 0.25:
            passage = passage.follows
            messages += [{"role": "user", "content": rng.choice(GO_ON)}, {"role": "assistant", "content": passage.text}]
        chats.append(messages)
    rng.shuffle(chats)
    return chats


def encode_chats(chats, tokenizer):
    """-> (ids, loss mask, starts). Only the assistant's words and its <|im_end|> are learnt."""
    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    start, end, stop = (tokenizer.token_to_id(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    assistant = tokenizer.encode("assistant\n").ids
    ids, loss, starts = [], [], []
    for encoding in tokenizer.encode_batch([template.render(messages=m, add_generation_prompt=False) for m in chats]):
        starts.append(len(ids))
        chat, learnt = encoding.ids + [stop], False
        for i, token in enumerate(chat):
            if token == start:
                learnt = False
            ids.append(token)
            loss.append(learnt)
            if token == end:
                learnt = False
            head = i - len(assistant)
            if head >= 0 and chat[head] == start and chat[head + 1 : i + 1] == assistant:
                learnt = True
    return np.array(ids, np.uint16), np.array(loss, bool), np.array(starts, np.uint32)


# ---- all of it ---------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of books, one UTF-8 .txt each")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    (args.out / "heldout").mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)

    documents, held_out = [], {}
    for path in sorted(args.corpus.glob("*.txt")):
        before, held_out[path.stem], after = split_book(path.read_text(encoding="utf-8"))
        documents += chapters(before) + chapters(after)
        (args.out / "heldout" / path.name).write_text("\n\n".join(held_out[path.stem]) + "\n", encoding="utf-8")
    text, books = test_text(held_out)
    (args.out / "heldout.txt").write_text(text, encoding="utf-8")
    print(f"heldout.txt: {len(text.encode())} bytes from", *books, sep="\n    ")

    texts = ["\n\n".join(d) for d in documents]
    tokenizer = train_tokenizer(texts)
    write_tokenizer(tokenizer, args.out)

    stop = tokenizer.token_to_id("<|endoftext|>")
    order = list(range(len(texts)))
    rng.shuffle(order)
    encodings = tokenizer.encode_batch([texts[i] for i in order])
    prose = np.array([t for e in encodings for t in e.ids + [stop]], np.uint16)
    np.save(args.out / "prose.npy", prose)

    chats = make_chats(documents, rng)
    ids, loss, starts = encode_chats(chats, tokenizer)
    np.save(args.out / "chat.npy", ids)
    np.save(args.out / "chat_loss.npy", loss)
    np.save(args.out / "chat_starts.npy", starts)
    (args.out / "chat_sample.txt").write_text(
        tokenizer.decode(ids[: starts[40]].tolist(), skip_special_tokens=False), encoding="utf-8"
    )

    held_bytes = sum(len("\n\n".join(p).encode()) for p in held_out.values())
    print(f"books {len(held_out)}, documents {len(texts)}, training text {sum(len(t.encode()) for t in texts)} bytes,")
    print(f"prose {len(prose)} tokens, {len(chats)} chats {len(ids)} tokens ({int(loss.sum())} learnt),")
    print(f"held out {held_bytes} bytes")


if __name__ == "__main__":
    main()

"""Strings that are hard on a tokenizer, the same ones for the same seed."""

import pathlib
import random

HELDOUT = pathlib.Path(__file__).resolve().parents[1] / "data/heldout.txt"

# First and last letters of scripts, and how many letters a word of theirs has.
SCRIPTS = {
    "latin": (0x61, 0x7A, 9),
    "accented": (0xC0, 0x17F, 8),
    "greek": (0x3B1, 0x3C9, 8),
    "cyrillic": (0x410, 0x44F, 9),
    "hebrew": (0x5D0, 0x5EA, 6),
    "arabic": (0x621, 0x64A, 7),
    "devanagari": (0x905, 0x94D, 6),
    "tamil": (0xB85, 0xBCD, 6),
    "thai": (0xE01, 0xE4E, 9),
    "hangul": (0xAC00, 0xD7A3, 4),
    "hiragana": (0x3041, 0x3096, 5),
    "katakana": (0x30A1, 0x30FA, 5),
    "han": (0x4E00, 0x9FFF, 3),
}
MARKS = [*range(0x300, 0x36F), 0x5B0, 0x5BF, 0x64B, 0x650, 0x93C, 0x1DC4, 0x20D0, 0x20E3, 0xFE0F, 0x3099, 0x1D165]
PEOPLE = [0x1F468, 0x1F469, 0x1F467, 0x1F9D1, 0x1F44D, 0x1F64F, 0x1F469]
FACES = [*range(0x1F600, 0x1F650), *range(0x1F300, 0x1F320), *range(0x1FA70, 0x1FA90), 0x2764, 0x2600, 0x2705]
SPACES = " \t\n\r\u000b\u000c\u0085\u00a0\u1680\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x180E, 0x2060, 0xFEFF, 0xFFF9]
COMPATIBILITY = "\ufb01\u00bd\u2167\u2126\u212b\u1e9b\uf900\u3392\uff21\uff11\u0344\u0958\u1112\u1161\u11ab\u2581\u0130\u017f"
CONTRACTIONS = ["'s", "'S", "'ll", "'LL", "'Ve", "'re", "'d", "'m", "'T", "n't", "\u2019s", "'\u017f", "''s"]
KEYWORDS = "if else for while return def class import from struct const auto int float void public template".split()
OPERATORS = ["==", "!=", "->", "::", "&&", "||", "+=", "<<", "**", "//", "/*", "*/", "{", "}", "();", "[0]", "=>", "..."]
PUNCTUATION = ".,;:!?-\u2014\u2026\u3001\u3002\uff0c\uff01\u060c\u061f\u0964\"'()[]{}<>/\\|@#$%^&*_=+~`\u00ab\u00bb\u201c\u201d\u00a7\u20ac\u2116"


class Strings:
    """A stream of strings. `lexicon` words a script repeat, so that a vocabulary can learn them."""

    def __init__(self, seed, added_tokens=(), lexicon=400):
        self.random = random.Random(seed)
        self.book = HELDOUT.read_text(encoding="utf-8")
        self.added_tokens = list(added_tokens)
        # The words do not depend on the seed: what is trained on shares them with what is tested on.
        words = random.Random("lexicon")
        self.words = {
            name: ["".join(chr(words.randint(a, b)) for _ in range(words.randint(1, most))) for _ in range(lexicon)]
            for name, (a, b, most) in SCRIPTS.items()
        }
        self.kinds = [
            self.book_text, self.book_text, self.book_text, self.code, self.code, self.numbers, self.emoji, self.cjk,
            self.cjk, self.arabic, self.scripts, self.combining, self.controls, self.spaces, self.contractions,
            self.punctuation, self.any_code_points, self.around_tokens,
        ]

    def pick(self, items):
        return items[int(self.random.random() * len(items))]

    def word(self, script):
        # Few words are frequent.
        words = self.words[script]
        return words[int(self.random.random() ** 2 * len(words))]

    def count(self, most):
        return 1 + int(self.random.random() * most)

    def book_text(self):
        start = int(self.random.random() * (len(self.book) - 400))
        return self.book[start : start + self.count(300)]

    def identifier(self):
        parts = [self.word("latin") for _ in range(self.count(3))]
        style = self.count(4)
        return ["_".join(parts), parts[0] + "".join(p.capitalize() for p in parts[1:]), "_".join(parts).upper(), parts[0]][style - 1]

    def code(self):
        lines = []
        for _ in range(self.count(5)):
            indent = self.pick(["", "    ", "        ", "\t", "\t\t", "  ", "                "])
            items = [self.pick([self.identifier(), self.pick(KEYWORDS), self.pick(OPERATORS), self.numbers(), '"' + self.word("latin") + '"']) for _ in range(self.count(8))]
            lines.append(indent + self.pick([" ", "", " "]).join(items) + self.pick(["", ";", " {", ":", "  # " + self.word("latin"), "\\"]))
        return self.pick(["\n", "\r\n", "\n\n"]).join(lines) + self.pick(["", "\n"])

    def numbers(self):
        digits = "".join(self.pick("0123456789") for _ in range(self.count(12)))
        return self.pick([digits, digits[:3] + "." + digits, "-" + digits, "1,000,000", "0x" + digits, "1e-" + digits[:2], "\u0663\u0664\u0665", "x" + digits + "y", "\u00bd\u2167\u0be8", digits * 8])

    def emoji(self):
        out = ""
        for _ in range(self.count(6)):
            kind = self.count(5)
            if kind == 1:
                out += "\u200d".join(chr(self.pick(PEOPLE)) for _ in range(self.count(4)))
            elif kind == 2:
                out += chr(0x1F1E6 + self.count(25)) + chr(0x1F1E6 + self.count(25))
            elif kind == 3:
                out += chr(self.pick(PEOPLE)) + chr(0x1F3FA + self.count(5))
            else:
                out += chr(self.pick(FACES)) + self.pick(["", "\ufe0f", " "])
        return out

    def cjk(self):
        script = lambda: self.pick(["han", "han", "hiragana", "katakana", "hangul"])
        return "".join(self.word(script()) + self.pick(["", "", "", "\u3002", "\uff0c", " ", "\u3000", "A", "7"]) for _ in range(self.count(25)))

    def arabic(self):
        return " ".join(self.word("arabic") + self.pick(["", "", "\u064b", "\u0650\u0651", "\u060c", "\u061f", "\u0640", " 12", "\u0662"]) for _ in range(self.count(15)))

    def scripts(self):
        script = self.pick(list(SCRIPTS))
        return self.pick([" ", " ", "-", ""]).join(self.word(script) for _ in range(self.count(15)))

    def combining(self):
        out = ""
        for _ in range(self.count(12)):
            base = self.pick(["e", "a", "q", "\u00e9", "\u1e69", "\u05d0", "\u0645", "\u0915", "\u1100", "\u304b", self.pick(COMPATIBILITY), ""])
            out += base + "".join(chr(self.pick(MARKS)) for _ in range(self.count(4) - 1)) + self.pick(["", "", " "])
        return out

    def controls(self):
        return "".join(self.pick([chr(self.pick(CONTROLS)), self.word("latin"), " "]) for _ in range(self.count(20)))

    def spaces(self):
        out = ""
        for _ in range(self.count(4)):
            run = self.pick([" " * self.count(100), "\n" * self.count(20), "\t" * self.count(10), "".join(self.pick(SPACES) for _ in range(self.count(12)))])
            out += run + self.pick([self.word("latin"), "", "7", ".", "\n"])
        return out

    def contractions(self):
        return self.pick([" ", ""]).join(self.word("latin") + self.pick(CONTRACTIONS) for _ in range(self.count(8)))

    def punctuation(self):
        out = ""
        for _ in range(self.count(8)):
            out += self.pick(PUNCTUATION) * self.count(4) + self.pick(["", " ", self.word("latin"), "\n", "\r\n"])
        return out

    def any_code_points(self):
        out = ""
        for _ in range(self.count(15)):
            code_point = int(self.random.random() ** 2 * 0x110000)
            out += self.pick(["", " ", "a", "1"]) if 0xD800 <= code_point < 0xE000 else chr(code_point)
        return out

    def around_tokens(self):
        if not self.added_tokens:
            return self.punctuation()
        around = ["", " ", "  ", "\n", "a", "_", "\u00e9", "\u3000", ".", "1"]
        return "".join(self.pick(around) + self.pick(self.added_tokens) + self.pick(around) for _ in range(self.count(5)))

    def text(self):
        """One string; now and then several kinds joined."""
        return "".join(self.pick(self.kinds)() for _ in range(1 if self.random.random() < 0.8 else self.count(4)))

    def broken_bytes(self):
        """UTF-8 with bytes changed, dropped and cut."""
        data = bytearray(self.text().encode())
        for _ in range(self.count(4)):
            if not data:
                break
            at = int(self.random.random() * len(data))
            if self.random.random() < 0.5:
                data[at] = int(self.random.random() * 256)
            else:
                del data[at]
        return bytes(data)


def make_strings(count, seed, added_tokens):
    """`count` byte strings; one in twelve is not well-formed UTF-8."""
    source = Strings(seed, added_tokens)
    strings = [b"", b" ", b"\n", b"\0", b"a", "\u2581".encode(), b"\xff", b"<0x41>"]
    while len(strings) < count:
        strings.append(source.broken_bytes() if len(strings) % 12 == 0 else source.text().encode())
    return strings

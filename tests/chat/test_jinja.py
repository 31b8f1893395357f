"""Small templates made at random, rendered by jinja2 and by the chat room: the same text, or an error in both."""

import json
import os
import pathlib
import random
import subprocess
import sys

import jinja2
import pytest

import jinja_reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
RENDER = pathlib.Path(os.environ.get("SLUICE_RENDER_JINJA", ROOT / "build/release/bin/render_jinja"))

VARIABLES = {
    "s": "Hello, World <b>", "t": "h\u00e9 \u4e16\n\tx\u00df", "e": "", "n": 3, "m": -7, "z": 0, "f": 2.5, "g": -0.125,
    "yes": True, "no": False, "nil": None, "l": [3, 1, 2], "w": ["b", "a", "B", "c"], "d": {"b": 1, "a": [1, "x"], "C": None},
    "el": [], "ed": {}, "users": [{"name": "Bo", "age": 3}, {"name": "al", "age": 1}, {"name": "Cy", "age": 3}],
    "mixed": [1, "a", None, 2.0, [1]], "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}],
}  # fmt: skip


class Maker:
    """Makes expressions of mostly fitting types, and now and then of any. A ` stands for a double quote."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, *choices):
        return self.random.choice(choices)

    def any(self, depth):
        return self.pick(self.number, self.text, self.list, self.truth, self.dict)(depth)

    def wild(self, depth):
        return self.random.random() < 0.06 and depth > 0

    def number(self, depth):
        if self.wild(depth):
            return self.any(depth - 1)
        if depth <= 0:
            return self.pick("n", "m", "z", "f", "g", "0", "1", "2", "-3", "10", "2.0", "1.5", "1e3", "yes", "0x1F", "l[0]", "d.b")
        a, b = self.number(depth - 1), self.number(depth - 1)
        return self.pick(
            lambda: f"({a} {self.pick('+', '-', '*', '/', '//', '%')} {b})",
            lambda: f"({a} ** {self.pick('2', '3', '0', '-1', '0.5')})",
            lambda: f"-{a}", lambda: f"{a} | abs", lambda: f"({a}) | round({self.pick('', '1', '0', '2', '-1', '1, `ceil`', '0, `floor`')})",
            lambda: f"({a}) | int", lambda: f"({a}) | float", lambda: f"({self.text(depth - 1)}) | length",
            lambda: f"({self.list(depth - 1)}) | {self.pick('length', 'sum', 'first', 'last', 'min', 'max', 'count')}",
            lambda: f"({self.text(depth - 1)}) | int({self.pick('', '5', 'base=16', '7, 2')})", lambda: f"({self.text(depth - 1)}) | float",
            lambda: f"({self.text(depth - 1)}).{self.pick('find', 'rfind', 'count', 'index', 'rindex')}({self.text(0)}{self.pick('', ', 1', ', -2', ', 1, 4')})",
            lambda: f"({a} if {self.truth(depth - 1)} else {b})", lambda: f"({self.text(depth - 1)}) | wordcount",
            lambda: f"({self.list(depth - 1)})[{a}]", lambda: f"({self.list(depth - 1)}).{self.pick('count', 'index')}({self.any(0)})",
        )()  # fmt: skip

    def text(self, depth):
        if self.wild(depth):
            return self.any(depth - 1)
        if depth <= 0:
            return self.pick("s", "t", "e", "'a'", "'l'", "' x y '", "'12'", "' -3.5 '", "'A-b c'", "'o'", "'%s'", "'x\\ty'", "'\u00e9'", "'ab' 'cd'",
                             "messages[0].role", "'0x1f'", "'1_0'", "'it\\'s'", "', '", "'aaa'", "'\\n'", "' '")  # fmt: skip
        a, b = self.text(depth - 1), self.text(depth - 1)
        return self.pick(
            lambda: f"({a} + {b})", lambda: f"({a} ~ {self.any(depth - 1)})", lambda: f"({a} * {self.pick('2', '0', '-1', '3')})",
            lambda: f"({a})[{self.slice()}]", lambda: f"({a})[{self.number(depth - 1)}]",
            lambda: f"({a}) | {self.pick('upper', 'lower', 'title', 'capitalize', 'trim', 'reverse', 'string', 'urlencode', 'first', 'last', 'tojson', 'indent', 'list', 'min', 'max')}",
            lambda: f"({a}) | {self.pick('trim', 'center')}({self.pick(b, '9', '1', 'none')})",
            lambda: f"({a}) | replace({b}, {self.text(0)}{self.pick('', ', 1', ', 0')})",
            lambda: f"({a}) | {self.pick('truncate(5)', 'truncate(7, true)', 'truncate(5, false, ``, 0)', 'truncate(4, leeway=1)', 'indent(2, true)', 'indent(1, blank=true)', 'indent(`> `, first=true)')}",
            lambda: f"({a}).{self.pick('upper', 'lower', 'title', 'capitalize', 'swapcase', 'strip', 'lstrip', 'rstrip', 'casefold', 'expandtabs')}()",
            lambda: f"({a}).{self.pick('strip', 'lstrip', 'rstrip', 'removeprefix', 'removesuffix')}({b})",
            lambda: f"({a}).replace({b}, {self.text(0)}{self.pick('', ', 1')})", lambda: f"({a}).join({self.list(depth - 1)})",
            lambda: f"({a}).{self.pick('center', 'ljust', 'rjust', 'zfill')}({self.pick('3', '8', '0', '9')}{self.pick('', '', ', `*`')})",
            lambda: f"({self.list(depth - 1)}) | join({self.pick('', b)})", lambda: f"({self.any(depth - 1)}) | string",
            lambda: f"({self.any(depth - 1)}) | tojson({self.pick('', 'indent=2', 'ensure_ascii=true', 'separators=(`,`, `:`)', 'indent=0')})",
            lambda: f"({a}) | default({b}{self.pick('', ', true')})", lambda: f"({a} if {self.truth(depth - 1)} else {b})",
            lambda: f"'{self.pick('%s', '%r', '%d', '%5s|', '%-5s|', '%.2f', '%05d', '%x', '%e', '%g', '%%', '%+d', '%c', '%s-%s', '%(b)s', '%.1s')}' % {self.pick(self.any(depth - 1), '(1, 2)', 'd')}",
            lambda: f"'{self.pick('{}', '{0}{0}', '{!r}', '{:>8}', '{:^7}|', '{:.2f}', '{:05d}', '{:,}', '{:x}', '{:+}', '{:%}', '{:e}', '{{}}', '{0[0]}', '{:*<6}', '{1}', '{:s}', '{:d}', '{:.3}')}'.format({self.any(depth - 1)})",
            lambda: f"({self.any(depth - 1)}) | format({self.any(0)})",
        )()  # fmt: skip

    def slice(self):
        part = lambda: self.pick("", "", "1", "-1", "2", "-2", "0", "5", "n", "m", "none")  # noqa: E731
        return f"{part()}:{part()}" + self.pick("", "", f":{self.pick('2', '-1', '-2', '', '0' if self.random.random() < 0.1 else '3')}")

    def list(self, depth):
        if self.wild(depth):
            return self.any(depth - 1)
        if depth <= 0:
            return self.pick("l", "w", "el", "users", "mixed", "[1, 2, 3]", "[]", "['x', 'Y', 'x']", "(1, 2)", "()", "range(4)", "range(5, 0, -2)", "messages",
                             "[[1, 2], [0, 5]]", "['a', 'b']")  # fmt: skip
        a = self.list(depth - 1)
        return self.pick(
            lambda: f"[{self.any(depth - 1)}, {self.any(depth - 1)}]", lambda: f"({self.any(depth - 1)},)", lambda: f"({a} + {self.list(depth - 1)})",
            lambda: f"({a} * {self.pick('2', '0', '-1')})", lambda: f"({a})[{self.slice()}]",
            lambda: f"({a}) | {self.pick('list', 'sort', 'unique | list', 'reverse | list', 'sort(reverse=true)', 'sort(case_sensitive=true)', 'batch(2) | list', 'slice(2) | list', 'batch(2, 0) | list', 'slice(3, none) | list', 'sort(attribute=`name`)', 'sort(attribute=`age,name`)', 'first', 'last', 'reverse', 'sum(start=[])', 'unique(attribute=`age`) | list', 'groupby(`age`)', 'groupby(`role`, default=`?`)', 'min(attribute=`age`)', 'items | list', 'string')}",
            lambda: f"({a}) | {self.pick('map', 'select', 'reject')}({self.pick('', '`upper`', '`string`', '`odd`', '`none`', '`length`', '`default`, 1', '`in`, [1, 2]', '`gt`, 1', '`nonsense`', 'attribute=`name`', '`abs`')}) | list",
            lambda: f"({a}) | {self.pick('selectattr', 'rejectattr')}({self.pick('`age`', '`name`', '`role`, `equalto`, `user`', '`age`, `gt`, 1', '`content`, `none`', '`name`, `defined`', '0')}) | list",
            lambda: f"({a}) | map(attribute={self.pick('`name`', '`age`', '0', '`role`, default=`d`', '`0`', '`content`')}) | list",
            lambda: f"({self.text(depth - 1)}).{self.pick('split', 'rsplit')}({self.pick('', '` `', '`,`, 1', '`l`', 'none, 1', 'maxsplit=1', '``', '`a`')})",
            lambda: f"({self.text(depth - 1)}).{self.pick('splitlines()', 'partition(` `)', 'rpartition(`l`)', 'splitlines(true)')}",
            lambda: f"({self.dict(depth - 1)}).{self.pick('items()', 'keys()', 'values()')}", lambda: f"({self.dict(depth - 1)}) | {self.pick('items | list', 'dictsort', 'list', 'dictsort(by=`value`)', 'dictsort(true)', 'dictsort(reverse=true)')}",
            lambda: f"({self.text(depth - 1)}) | list", lambda: f"range({self.pick('3', '1, 4', '4, 0, -1', 'n', 'f')}) | list", lambda: f"{a}.append(1)",
        )()  # fmt: skip

    def dict(self, depth):
        if self.wild(depth):
            return self.any(depth - 1)
        if depth <= 0:
            return self.pick("d", "ed", "{}", "{'k': 1}", "users[0]", "{1: 'a', 'b': 2}", "dict(a=1)")
        return self.pick(
            lambda: f"{{{self.text(depth - 1)}: {self.any(depth - 1)}}}", lambda: f"dict({self.dict(depth - 1)}, k={self.any(depth - 1)})",
            lambda: f"({self.dict(depth - 1)}).get({self.text(0)}{self.pick('', ', {}')})", lambda: f"({self.dict(depth - 1)})[{self.text(0)}]",
            lambda: f"({self.dict(depth - 1)}).{self.pick('a', 'b', 'k', 'name', 'copy()', 'pop(1)')}",
            lambda: f"{{{self.any(depth - 1)}: 1, 'b': {self.any(depth - 1)}}}", lambda: f"dict([({self.text(0)}, {self.any(0)})])",
        )()  # fmt: skip

    def truth(self, depth):
        if self.wild(depth):
            return self.any(depth - 1)
        if depth <= 0:
            return self.pick("yes", "no", "true", "false", "missing", "nil")
        return self.pick(
            lambda: f"({self.number(depth - 1)} {self.comparison()} {self.number(depth - 1)})", lambda: f"({self.text(depth - 1)} {self.comparison()} {self.text(depth - 1)})",
            lambda: f"({self.number(depth - 1)} < {self.number(depth - 1)} <= {self.number(depth - 1)})", lambda: f"({self.list(depth - 1)} {self.comparison()} {self.list(depth - 1)})",
            lambda: f"({self.any(depth - 1)} {self.pick('==', '!=')} {self.any(depth - 1)})", lambda: f"({self.any(depth - 1)} {self.pick('in', 'not in')} {self.pick(self.list, self.text, self.dict)(depth - 1)})",
            lambda: f"(not {self.any(depth - 1)})", lambda: f"({self.any(depth - 1)} {self.pick('and', 'or')} {self.any(depth - 1)})",
            lambda: f"({self.any(depth - 1)} is {self.pick('', 'not ')}{self.pick('defined', 'undefined', 'none', 'string', 'mapping', 'iterable', 'sequence', 'boolean', 'integer', 'float', 'number', 'true', 'false', 'callable', 'lower', 'upper', 'odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'in [1, 2]', 'sameas none', 'eq 1', 'ne(2)', 'lt 5', 'ge 2', 'equalto `a`', 'filter', 'test', 'escaped')})",
            lambda: f"({self.text(depth - 1)}).{self.pick('isdigit', 'isalpha', 'isalnum', 'isspace', 'isupper', 'islower', 'istitle', 'isascii', 'isdecimal', 'isnumeric', 'isidentifier', 'isprintable')}()",
            lambda: f"({self.text(depth - 1)}).{self.pick('startswith', 'endswith')}({self.pick(self.text(0), '(`a`, `H`)', 's, 1', '`l`, -3', '[`a`]')})",
            lambda: f"({self.any(depth - 1)} is {self.pick('sameas', 'eq', 'lt', 'in')}({self.any(0)}))",
        )()  # fmt: skip

    def comparison(self):
        return self.pick("==", "!=", "<", "<=", ">", ">=", "in", "not in")

    def body(self, depth):
        """Statements around expressions, with blanks and signs that trim them."""
        parts = [self.statement(depth) for _ in range(self.random.randint(1, 3))]
        return self.pick("", " ", "\n", "  \n ", "x", "y\n").join(parts)

    def tag(self, inside):
        return "{%" + self.pick("", "", "-", "+") + f" {inside} " + self.pick("", "", "-", "+") + "%}"

    def statement(self, depth):
        blank = self.pick("", "", " ", "\n", "\n  ", "\t", " a ")
        if depth <= 0:
            return blank + "{{" + self.pick("", "-") + f" {self.any(1)} " + self.pick("", "-") + "}}" + self.pick("", "\n", " ")
        inner = lambda: self.body(depth - 1)  # noqa: E731
        loop = self.pick("loop.index", "loop.first", "loop.last", "loop.length", "loop.revindex0", "loop.previtem", "loop.nextitem is defined", "loop.depth",
                         "loop.cycle('p', 'q')", "loop.changed(x)", "x", "loop.index0 % 2", "loop")  # fmt: skip
        return blank + self.pick(
            lambda: self.tag(f"if {self.truth(1)}") + inner() + self.pick("", self.tag("else") + inner(), self.tag(f"elif {self.truth(1)}") + "E") + self.tag("endif"),
            lambda: self.tag(f"for x in {self.list(1)}" + self.pick("", "", f" if {self.truth(1)}", " if x", " recursive")) + f"{{{{ {loop} }}}}" + inner()
            + self.pick("", self.tag("break"), self.tag("if loop.index > 1") + self.tag("continue") + self.tag("endif")) + self.pick("", "z", self.tag("else") + "none") + self.tag("endfor"),
            lambda: self.tag(f"for k, v in {self.pick('d.items()', 'ed | items', 'd | dictsort', '[[1, 2]]', 'l')}") + "{{ k }}={{ v }}" + self.tag("endfor"),
            lambda: self.tag(f"set x = {self.any(1)}") + inner() + "{{ x }}", lambda: self.tag("set x" + self.pick("", " | upper", " | trim | length")) + inner() + self.tag("endset") + "[{{ x }}]",
            lambda: self.tag("set ns = namespace(c=0)") + self.tag("for i in l") + self.tag("set ns.c = ns.c + i") + inner() + self.tag("endfor") + "{{ ns.c }}",
            lambda: self.tag(f"macro mac(a, b={self.any(0)})") + "{{ a }}{{ b }}" + self.pick("", "{{ varargs }}", "{{ kwargs }}", "{{ caller is defined }}") + inner() + self.tag("endmacro")
            + f"{{{{ mac({self.pick('', '1', '1, 2', 'b=3', '1, 2, 3', 'c=4', '*l', '**{`a`: 1}')}) }}}}",
            lambda: self.tag("macro c()") + "<{{ caller(1) }}>" + self.tag("endmacro") + self.tag(f"call{self.pick('(x)', '(x, y=2)', '')} c()") + inner() + "{{ x }}" + self.tag("endcall"),
            lambda: self.tag(f"with x = {self.any(1)}, q = x") + "{{ q }}" + inner() + self.tag("endwith"), lambda: self.tag(f"filter {self.pick('upper', 'trim', 'replace(`a`, `b`) | length', 'title')}") + inner() + self.tag("endfilter"),
            lambda: self.tag("generation") + inner() + self.tag("endgeneration"), lambda: "{#" + self.pick("", "-", "+") + " c " + self.pick("", "-", "+") + "#}" + inner(),
            lambda: "{%" + self.pick("", "-", "+") + " raw " + self.pick("", "-") + "%} {{ x }} \n {% " + self.pick("", "x ") + "%} {%" + self.pick("", "-", "+") + " endraw " + self.pick("", "-", "+") + "%}" + self.pick("", "\n", " "),
        )()  # fmt: skip


def reference(env, template):
    try:
        return {"text": env.from_string(template).render(**VARIABLES)}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": f"{error}", "at_load": True}
    except SyntaxError as error:  # a break that jinja2 lets through to Python's compiler
        return {"error": f"{error}", "at_load": True}
    except jinja_reference.RENDER_ERRORS as error:
        return {"error": f"{type(error).__name__}: {error}", "at_load": False}


def compare(templates):
    """Renders templates with both and lists where they differ. What only the chat room refuses is told apart: integers
    over 64 bits, complex numbers and the text of generators are not written there."""
    lines = [json.dumps({"template": template, "variables": VARIABLES}) for template in templates]
    run = subprocess.run([RENDER], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(templates)
    env = jinja_reference.environment()
    different, refused, failed = [], 0, 0
    for template, ours in zip(templates, answers):
        theirs = reference(env, template)
        if ours.get("error") == "unsupported":
            refused += 1
            continue
        failed += "error" in theirs
        # jinja2 gives nothing for what cannot be sliced when it is constant, and fails otherwise.
        if "error" in ours and "slice" in ours["message"] and "text" in theirs:
            continue
        same = ours.get("text") == theirs.get("text") and ours.get("at_load") == theirs.get("at_load")
        if not same and " object at 0x" not in theirs.get("text", "") and " at 0x" not in theirs.get("text", ""):
            different.append((template, ours, theirs))
    return different, refused, failed


def expressions(seed, count):
    maker = Maker(seed)
    return ["{{ " + maker.any(maker.random.randint(1, 3)).replace("`", '"') + " }}" for _ in range(count)]


def bodies(seed, count):
    maker = Maker(seed)
    return [maker.body(maker.random.randint(1, 3)).replace("`", '"') for _ in range(count)]


@pytest.mark.parametrize(("make", "count"), [(expressions, 3000), (bodies, 1000)])
def test_equals_jinja2(make, count):
    different, refused, failed = compare(make(1, count))
    assert not different[:3], f"{len(different)} of {count} differ"
    assert refused < count / 20
    assert failed < count * 3 / 4


if __name__ == "__main__":
    # test_jinja.py SEED COUNT: looks for differences beyond the test's seed.
    for made in (expressions, bodies):
        found, skipped, errors = compare(made(int(sys.argv[1]), int(sys.argv[2])))
        print(made.__name__, len(found), "differ,", skipped, "refused,", errors, "errors")
        for case in found[:40]:
            print(*map(repr, case), sep="\n  ")

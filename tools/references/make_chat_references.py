#!/usr/bin/env python3
"""Makes the references that the chat template tests compare with.

    make_chat_references.py OUT.json

Renders templates of our own with jinja2, set up as transformers sets it up, and writes for each template and
conversation what came out, or that it failed. Needs jinja2 (written with 3.1.6). The same input gives the same bytes.
"""

import argparse
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


CONVERSATIONS = {
    "one": {"messages": [{"role": "user", "content": "Hi there"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "  Be kind.\n"},
            {"role": "user", "content": "Caf\u00e9 \U0001f600 \"q\" 'x' \\ <b>&"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes\tno\u0001"},
            {"role": "user", "content": "Bye", "name": "Ann"},
        ],
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
    },
    "empty": {"messages": []},
    "twice": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "tools": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get", "arguments": {"x": 1, "y": [1.5, None, True]}}}
                ],
            },
            {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "c1"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "get", "description": "d\u00e9", "parameters": {"type": "object", "items": {}, "required": ["x"]}}}
        ],
        "add_generation_prompt": True,
        "extra": {"enable_thinking": False, "depth": 3, "ratio": 1e22, "tiny": 1.5e-7, "nested": {"a": {"b": [1, 2, {"c": "z"}]}}},
    },
}

TEMPLATES = {
    "chatml": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "whitespace": "  {% if true %}\n  a\n    {%- if true -%}  b  {%- endif %}\n{# c #}\n\tx {# d -#}\n\n y\n{%+ if true %}z{% endif +%}\n{{- 'p' -}}   q\n  {{ 'r' }}\n  {%- for i in [1,2] %}\n  {{ i }}\n  {% endfor %}\nend\n  {% endif %}\n\n",
    "loops": "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.first }} {{ loop.last }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ (loop.nextitem | default({'role': '?'})).role }} {{ loop.cycle('x', 'y') }}\n{% else %}none{% endfor %}{% for k, v in {'a': 1, 'b': [2, 'c']}.items() %}{{ k }}={{ v }};{% endfor %}{% for i in range(10) %}{% if i == 2 %}{% continue %}{% elif i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}{% for c in 'h\u00e9' %}[{{ c }}]{% endfor %}",
    "scopes": "{% set x = 1 %}{% set ns = namespace(found=false, n=0) %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% set ns.n = ns.n + i %}{% if i == 1 %}{% set ns.found = true %}{% set y = 5 %}{% endif %}{{ y is defined }}{% endfor %}{{ x }} {{ ns.n }} {{ ns.found }} {{ ns.other is defined }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% set a, b = 1, 'two' %}{{ b }}{{ a }}{% set block %}in {{ x }}{% endset %}{{ block | upper }}",
    "literals": "{{ [1, 2.0, 'a\\'b', \"q\", none, true, (1,), (), {'k': 'v\\n', 2: 3}] }} {{ 1_000 }} {{ 1.5e3 }} {{ 'a' 'b' }} {{ \"\\u00e9\\x41\\t|\\d\" }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1e16 }} {{ 0.0001 }} {{ 1.0 }} {{ 100000000000000000000.0 }} {{ 1, 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 'ab' * 3 }} {{ [1] * 2 + [3] }}",
    "logic": "{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' in 'cat' }} {{ 'x' not in ['x'] }} {{ 'k' in {'k': 1} }} {{ not false and 0 or 'last' }} {{ none is none }} {{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is iterable }} {{ 'a' is sequence }} {{ true is number }} {{ true is boolean }} {{ 1 is integer }} {{ 1 is true }} {{ missing is undefined }} {{ missing is not defined }} {{ 'y' if missing else 'n' }} {{ 'only' if false }}| {{ 2 is in [1, 2] }} {{ (1, 2) < (1, 3) }} {{ 'a' ~ 1 ~ none ~ missing }} {{ 1 != 2 is defined }}",
    "items": "{{ messages[0].role }} {{ messages[-1]['content'][0:2] }} {{ 'h\u00e9llo'[::-1] }} {{ 'h\u00e9llo'[1] }} {{ [1,2,3,4][1:] }} {{ [1,2,3,4][:-1] }} {{ [1,2,3,4][::2] }} {{ messages[99] is defined }} {{ messages[0].nothing }} {{ messages[0]['nothing'] | default('d') }} {{ {'a': {'b': 2}}.a.b }} {{ (1, 2)[5] is defined }} {{ [3,2,1][-3:-1] }} {{ 'abc'[5:] }}|{{ [1,2,3].0 }}",
    "filters": "{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ [1,2] | length }} {{ 'h\u00e9' | length }} {{ 'abC d' | upper }} {{ 'ABC' | lower }} {{ 'hELLO wORLD' | capitalize }} {{ 'hELLO wORLD-foo' | title }} {{ [1,'a',none] | join(', ') }} {{ messages | map(attribute='role') | join('|') }} {{ missing | default('d') }} {{ '' | default('e', true) }} {{ [5,6] | first }} {{ [5,6] | last }} {{ 'ab' | list }} {{ ' 42 ' | int + 1 }} {{ 'x' | int(7) }} {{ '3.9' | int }} {{ '2.5' | float }} {{ 3 | string + 'a' }} {{ 'aXbXc' | replace('X', '-') }} {{ 'aXbX' | replace('X', '', 1) }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('name') | list | length }} {{ messages | selectattr('name', 'defined') | map(attribute='name') | list }} {{ [3, -4] | map('abs') | list }} {{ [1,2,3] | select('odd') | list }} {{ -3 | abs }} {{ [1,2] | sum }} {{ 'a\\nb\\n\\nc' | indent(2) }} {{ [1,2] | reverse | list }} {{ ['a','A','b'] | unique | list }} {% for k, v in {'z': 1} | items %}{{ k }}{{ v }}{% endfor %}",
    "methods": "{{ ' a b '.strip() }}|{{ 'xxa'.lstrip('x') }}|{{ ' a '.rstrip() }}|{{ 'a,b,c'.split(',') }} {{ ' a  b c '.split() }} {{ 'a,b,c'.split(',', 1)[1] }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ 'aa'.replace('a', 'b') }} {{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }} {{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'items': 1}['items'] }} {{ 'h\u00e9llo'.find('l') }} {{ 'aXa'.count('a') }} {{ '-'.join(['a', 'b']) }} {{ 'a\\nb\\r\\nc'.splitlines() }} {{ '12'.isdigit() }} {{ '</think>x'.split('</think>')[-1].lstrip('\\n') }} {{ 'unhappy'.removeprefix('un') }}",
    "macros": "{% macro greet(name, greeting='Hello', end=name ~ '!') %}\n{{ greeting }}, {{ end }}\n{% endmacro %}\n{{ greet('Ann') }}{{ greet('Bob', greeting='Bye') }}{{ greet(end='?') }}{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(6) }}{% set later = 'L' %}{% macro sees() %}{{ later }}{{ hidden }}{% endmacro %}{% for i in [1] %}{% set hidden = 'no' %}{{ sees() }}{% endfor %}",
    "json": "{{ messages | tojson }}\n{{ tools | tojson(indent=2) }}\n{{ nested | tojson(sort_keys=true) }} {{ ratio | tojson }} {{ tiny }} {{ ratio }} {{ [] | tojson(indent=2) }}{{ {} | tojson }} {{ messages | tojson(ensure_ascii=true) }}",
    "tools": "{%- if tools %}{{- '<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools>\\n' }}{%- endif %}{%- set ns = namespace(multi=true, last=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi and message.role == 'user' and message.content is string and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}last={{ ns.last }}\n{%- for message in messages %}{%- if message.tool_calls %}{%- for call in message.tool_calls %}{%- if (loop.first and message.content) or (not loop.first) %}{{- '\\n' }}{%- endif %}{%- if call.function %}{%- set call = call.function %}{%- endif %}{{- '<call>' ~ call.name ~ ' ' }}{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}{{- '</call>' }}{%- endfor %}{%- elif message.role == 'tool' %}{{- '<r>' + message.content + '</r>' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<a>' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}{%- endif %}",
    "alternate": "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system %}{% set content = '<<' + system + '>>' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}[I] {{ content }} [/I]{% else %} {{ content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
    "undefined": "{{ missing }}|{{ missing | length }}|{{ missing | trim }}|{% for x in missing %}x{% else %}empty{% endfor %}|{{ missing == other }}|{{ missing | join(',') }}|{{ [missing] | length }}|{{ 'a' in missing }}|{{ tools is none }}|{{ bos_token is defined }}",
    "error_attribute": "{{ missing.attribute }}",
    "error_add": "{{ 'a' + 1 }}",
    "error_add_undefined": "{{ 'a' + missing }}",
    "error_call": "{{ missing() }}",
    "error_compare": "{{ 'a' < 1 }}",
    "error_unpack": "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "error_range": "{{ range(1000000) | length }}",
    "error_tojson": "{{ missing | tojson }}",
    "error_zero": "{{ 1 // 0 }}",
    "error_arguments": "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "error_set": "{% set x = {} %}{% set x.y = 1 %}",
    "error_in": "{{ 1 in 'abc' }}",
}

BROKEN = ["{{ a", "{% if x %}", "{% endif %}", "{{ a b }}", "{{ [1, }}", "{% for x y %}{% endfor %}", "{{ 'a }}", "{# a",
          "{% nonsense %}", "{{ (1 }}", "{{ a. }}", "{{ }}", "{% set %}", "{{ a | }}", "{{ 1 +* 2 }}", "{% else %}", "{{ a[ }}", "{{ @ }}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    env = environment()
    cases = []
    for name, source in TEMPLATES.items():
        template = env.from_string(source)
        for conversation, given in CONVERSATIONS.items():
            if conversation != "one" and name.startswith("error"):
                continue
            variables = {key: value for key, value in given.items() if key != "extra"} | given.get("extra", {})
            variables = {"tools": None, "documents": None, "add_generation_prompt": False} | variables
            case = {"template": name, "conversation": conversation}
            try:
                case["rendered"] = template.render(**variables)
            except (jinja2.exceptions.TemplateError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
                case["error"] = str(error)
            cases.append(case)
    for source in BROKEN:
        try:
            env.from_string(source)
        except jinja2.exceptions.TemplateSyntaxError:
            continue
        raise SystemExit(f"jinja2 takes {source!r}")
    out = {"conversations": CONVERSATIONS, "templates": TEMPLATES, "cases": cases, "broken": BROKEN}
    args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()

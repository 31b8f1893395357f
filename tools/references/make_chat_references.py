#!/usr/bin/env python3
"""Makes the references that the chat template tests compare with.

    make_chat_references.py OUT.json

Renders templates of our own with jinja2, set up as transformers sets it up, and writes for each template and
conversation what came out, or that it failed. Needs jinja2 (written with 3.1.6). The same input gives the same bytes.
"""

import argparse
import json
import pathlib

import sys

import jinja2

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/chat"))
import jinja_reference  # noqa: E402

# Noon of 2025-07-20 in UTC, the same day nearly everywhere.
NOW = 1753012800

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
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": " What "}, {"type": "text", "text": "is \u00e9?"}]}, {"role": "assistant", "content": "It is."}]},
    "empty": {"messages": []},
    "twice": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "missing": {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "sum", "arguments": {"of": [2, 2], "deep": {"k": [{"z": None}, -0.5, "\u4e16\u754c"]}}}}, {"id": "b", "type": "function", "function": {"name": "none", "arguments": {}}}]},
            {"role": "tool", "content": "4", "tool_call_id": "a", "name": "sum"},
            {"role": "tool", "content": "", "tool_call_id": "b", "name": "none"},
            {"role": "assistant", "content": "\n\n<think>four</think> 4\n"},
            {"role": "user", "content": " \u00c9t\u00e9 \u00df \U0001f600\u200d "},
        ],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tools": [{"type": "function", "function": {"name": "sum", "description": "Adds <numbers> & 'more'", "parameters": {"type": "object", "properties": {"of": {"type": "array", "items": {"type": "integer"}, "description": "what"}, "unit": {"type": "string", "enum": ["a", "b"]}}, "required": ["of"]}}}, {"type": "function", "function": {"name": "none", "parameters": None}}],
        "add_generation_prompt": True,
        "extra": {"enable_thinking": True, "documents": [{"title": "T1", "text": "one two"}, {"title": None, "text": ""}], "tree": [{"n": "a", "c": [{"n": "b", "c": []}, {"n": "c", "c": [{"n": "d"}]}]}, {"n": "e"}]},
    },
    "long": {
        "messages": [{"role": ["user", "assistant"][i % 2], "content": ["", "x", " two words ", "l1\nl2\n"][i % 4] + str(i)} for i in range(7)],
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
    },
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
    "thinking": "{%- for message in messages %}{%- set content = message.content if message.content is string else '' %}{%- set thought = '' %}{%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}<|{{ message.role }}|>{% if thought and loop.last or loop.index0 > messages | length - 3 %}[{{ thought }}]{% endif %}{{ content }}\n{%- endfor %}{%- if add_generation_prompt %}<|a|>{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}{% endif %}",
    "date": "{% if not date is defined %}{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% else %}{% set date = '26 Jul 2024' %}{% endif %}{% endif %}{{ bos_token }}Today: {{ date }} {{ strftime_now('%A %j %y-%m %%') | upper }}\n{% for m in messages %}<{{ m['role'] }}>\n\n{{ (m['content'] or '') | trim }}<end>{% endfor %}",
    "bracket_tools": "{{ bos_token }}{% set loop_messages = messages[1:] if messages and messages[0].role == 'system' else messages %}{% for m in loop_messages %}{% if m.role == 'user' %}{% if tools is not none and loop.last %}[T] [{% for tool in tools %}{% set tool = tool.function %}{{ '{\"type\": \"function\", \"function\": {' }}{% for key, val in tool.items() if key != 'return' %}{% if val is string %}{{ '\"' + key + '\": \"' + val + '\"' }}{% else %}{{ '\"' + key + '\": ' + val | tojson }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %}{{ '}}' }}{% if not loop.last %}, {% else %}]{% endif %}{% endfor %}[/T]{% endif %}[I] {{ m.content }}[/I]{% elif m.tool_calls is defined and m.tool_calls is not none %}[C] [{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}{{ ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last else ']' + (eos_token or '') }}{% endfor %}{% elif m.content is not none and m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% elif m.role in ['tool', 'tool_results'] %}[R] {\"content\": {{ (m.content.content if m.content is mapping else m.content) | string }}, \"id\": {{ m.tool_call_id | tojson }}}[/R]{% endif %}{% endfor %}",
    "typed_tools": "{% macro type_of(spec, depth=0) %}{% if spec.type == 'array' %}{{ type_of(spec['items'], depth + 1) }}[]{% elif spec.enum %}{{ spec.enum | map('tojson') | join(' | ') }}{% elif spec.type == 'integer' or spec.type == 'number' %}number{% else %}{{ spec.type | default('any', true) }}{% endif %}{% endmacro %}{% macro render(tools) %}{% for t in tools %}{% set f = t.function %}{% if f.description %}// {{ f.description }}\n{% endif %}type {{ f.name }} = ({% if f.parameters and f.parameters.properties %}_: {% for name, spec in f.parameters.properties.items() %}{{ name }}{{ '?' if name not in (f.parameters.required or []) }}: {{ type_of(spec) }}{{ ', ' if not loop.last }}{% endfor %}{% endif %}) => any;\n{% endfor %}{% endmacro %}{% if tools %}{{ render(tools) }}{% endif %}{{ messages | length }}",
    "call_blocks": "{% macro wrap(tag, n=1) %}<{{ tag }}>{{ caller(n, tag=tag) if caller is defined else '' }}{{ varargs | length }}{{ kwargs.x }}</{{ tag }}>{% endmacro %}{% for m in messages %}{% call(n, tag) wrap(m.role, loop.index, 'extra', x=m.name | default('-')) %}{{ n }}:{{ tag }}:{{ m.content }}{% endcall %}{% endfor %}{{ wrap('p') }}{{ wrap.name }}{{ wrap.arguments }}{{ wrap.catch_kwargs }}{{ wrap }}",
    "recursion": "{% for node in tree | default([{'n': 'r', 'c': [{'n': 's'}]}]) recursive %}{{ '  ' * loop.depth0 }}{{ loop.depth }}{{ node.n }}{{ loop.index }}\n{% if node.c %}{{ loop(node.c) }}{% else %}.{% endif %}{% endfor %}",
    "changes": "{% for m in messages %}{% if loop.changed(m.role) %}[{{ m.role }}]{% endif %}{{ loop.cycle('a', 'b', 'c') }}{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role | default('end') }}{{ loop.revindex }}{{ loop.revindex0 }}{% for x in 'ab' %}{{ loop.index }}{% if loop.last %}{% break %}{% endif %}{% else %}never{% endfor %}{% else %}none{% endfor %}",
    "with_filter": "{% with a = messages | length, b = 2 %}{% with a = b, c = a %}{{ a }}{{ b }}{{ c }}{% endwith %}{{ a }}{% endwith %}{% filter upper | replace('U', '_') %}{% for m in messages %}{{ m.role }} {% endfor %}{% endfilter %}{% set text | trim | title %}  {% for m in messages %}{{ m.content }}{% endfor %} {% endset %}|{{ text }}|",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set inner = m.content %}{{ inner }}{{ eos_token }}{% endgeneration %}{{ inner is defined }}{% else %}{{ '[' ~ m.content ~ ']' }}{% endif %}\n{% endfor %}",
    "groups": "{% for role, items in messages | groupby('role') %}{{ role }}: {{ items | map(attribute='content') | map('default', '', true) | join('/') }};{% endfor %}{% for g in messages | groupby('name', default='nobody') %}{{ g.grouper }}={{ g.list | length }} {% endfor %}{{ messages | map(attribute='role') | unique | sort(reverse=true) | join(',') }} {{ {'b': 2, 'A': 1, 'c': 0} | dictsort }} {{ {'b': 2, 'A': 1} | dictsort(true, 'value', true) }} {{ ['b', 'A', 'c'] | sort }} {{ [3, 1, 2] | min }}{{ ['x', 'Z'] | max }} {% for row in range(7) | batch(3, '-') %}{{ row | join }}{% if not loop.last %}|{% endif %}{% endfor %} {{ range(7) | slice(3, 'f') | list }}",
    "formats": "{{ '%s is %5.2f%% of %(x)s' % {'x': 1} if false else '%s|%5.2f%%|%-4d|%04d|%x|%r|%+d' % ('a', 2.555, 7, 42, 255, 'q', 3) }} {{ '{}-{:>5}-{:<4}|{:^5}|{:05.1f}|{:,}|{!r}|{k[a]}|{:x}'.format(1, 'b', 'c', 'd', 2.25, 1234567, 'e', 255, k={'a': 'v'}) }} {{ 'Hello %s' | format('you') }} {{ '%(a)s' | format(a=[1, none]) }} {{ 'x' | center(5) }}| {{ 'abcdef ghi' | truncate(6, true, '~', 0) }} {{ 'one two three four' | truncate(12) }} {{ 'a b_c  d-e' | wordcount }} {{ 'a b/c?&\u00e9' | urlencode }} {{ {'a b': 'c&d', 'e': 1} | urlencode }} {{ 2.675 | round(2) }} {{ 7 | round }} {{ 2.5 | round }} {{ 3.14159 | round(3, 'ceil') }} {{ 1234567 | filesizeformat }} {{ '<a href=\"x\">&' | e }} {{ 'tom\\'s (big) dog-house' | title }} {{ 3 | float }} {{ '0x1F' | int(base=16) }} {{ 'zz' | int(3, 36) }}",
    "python_methods": "{{ 'a-b_c'.partition('-') }} {{ 'a.b.c'.rpartition('.')[0] }} {{ ' a  b '.split(' ') }} {{ 'a b c'.rsplit(none, 1) }} {{ 'x'.center(5, '*') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'x'.ljust(3) ~ '|' ~ 'x'.rjust(3, '.') }} {{ 'aBc'.swapcase() }} {{ 'stra\u00dfe'.upper() }} {{ 'STRA\u00dfE'.casefold() }} {{ '\u03a3\u0391\u03a3'.lower() }} {{ 'abcabc'.index('c', 3) }} {{ 'abcabc'.rfind('b') }} {{ 'abc'.count('') }} {{ 'a\\tb'.expandtabs(4) }} {{ 'ab1'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'Ab Cd'.istitle() }}{{ 'AB'.isupper() }}{{ 'x_1'.isidentifier() }}{{ '\u00b2'.isdigit() }}{{ '\u00b2'.isdecimal() }}{{ '\u00bd'.isnumeric() }} {{ 'one\\ntwo\\r\\nthree'.splitlines(true) }} {{ [1, 2, 1].count(1) }}{{ (1, 2).index(2) }} {{ {'a': 1}.copy() }} {{ {'a': 1}.items() }} {{ {'a': 1}.keys() }} {{ range(2, 8, 3) }} {{ 'pre_x'.removeprefix('pre_').removesuffix('x') }}|{{ 'abc'.startswith('b', 1) }} {{ 'a,b;c'.replace(',', ';').split(';') | list }}",
    "unpacking": "{% for (a, b), c in [((1, 2), 3), ([4, 5], 6)] %}{{ a + b + c }} {% endfor %}{% set (p, q), r = [1, 2], 'z' %}{{ p ~ q ~ r }}{% macro show(a, b='B') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ show(*['x', 'y', 'z']) }}{{ show(**{'a': 1, 'c': 2}) }}{{ show('k', *[2], d=3, **{'e': 4}) }}{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c %}block {{ ns.a }}{% endset %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ dict([('x', 1)], y=2) }}{{ {'a': {'b': [10, 20, 30]}}['a'].b[-1] }}{{ 'abcdef'[::-2] }}{{ [1, 2, 3, 4][-1:0:-1] }}{{ (1, 2, 3)[:2] }}{{ 'x'[5:] }}{{ messages[::2] | map(attribute='role') | list }}",
    "raw_and_space": "{% raw %}{{ not }} {% this %}{% endraw %}\n   {%- raw -%}  a  {%- endraw +%}\n  {%+ if true +%}\n kept\n  {% endif %}\n{#- c -#}   x  {#+ y +#}\n\n{{- ' p ' -}}\n\n   {% for m in messages -%}\n   {{ m.role }}\n   {%- endfor %}\n\n",
    "tests": "{{ 1 is eq 1 }}{{ 1 is ne 2 }}{{ 2 is gt 1 }}{{ 2 is lessthan 1 }}{{ 3 is ge(3) }}{{ 'a' is in 'abc' }}{{ none is sameas none }}{{ 4 is divisibleby(2) }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ 1.5 is float }}{{ 1 is float }}{{ true is integer }}{{ range is callable }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ {} is not sequence }}{{ messages is iterable }}{{ x is not defined and y is undefined }}{{ 'a' is equalto 'a' }}{{ 1 < 2 <= 2 != 3 }}{{ not (1 in [2]) }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ 7 // -2 }}{{ -7 % 5 }}{{ 1 / 4 }}{{ 'a' * 3 ~ 1.0 }}{{ (1 if false) is undefined }}{{ messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | select | list }}{{ messages | rejectattr('role', 'ne', 'user') | list | count }}{{ [1, 'a', none] | select('string') | first }}{{ [0, 1, 2] | reject | list }}",
    "documents": "{% if documents %}{% for d in documents %}Doc {{ loop.index }}: {{ d.title or 'untitled' }}\n{{ d['text'] | wordcount }} {{ d | tojson(indent=1) }}\n{% endfor %}{% else %}no documents{% endif %}{% for m in messages if m.content %}{% if loop.first %}{{ bos_token }}{% endif %}{{ m.role | upper | truncate(4, true, '') }}>{{ m.content | replace('\\n', ' ') | indent(2) }}{% endfor %}",
    "json_styles": "{{ tools | tojson(indent=4, sort_keys=true) }}{{ [1, {'a': [], 'b': {}}] | tojson(separators=(',', ':')) }}{{ '<>&\u00e9\u2028' | tojson }}{{ '\u00e9' | tojson(ensure_ascii=true) }}{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}{{ (1, (2,)) | tojson }}{{ {'a': 1} | tojson(indent='\\t') }}{{ 1e100 | tojson }}{{ 'q\\\\\\\"' | tojson }}",
    "roles": "{%- set roles = {'user': 'U', 'assistant': 'A', 'system': 'S'} -%}{%- for m in messages -%}{%- if m.role not in roles -%}{{- raise_exception('Unknown role: ' ~ m.role ~ ' at ' ~ loop.index0) -}}{%- endif -%}{{- '<|' ~ roles[m.role] ~ '|>' ~ (m.content if m.content else '') ~ eos_token -}}{%- endfor -%}",
    "last_user": "{% set ns = namespace(last=-1, tools=0, text='') %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% elif m.tool_calls %}{% set ns.tools = ns.tools + m.tool_calls | length %}{% endif %}{% set ns.text = ns.text ~ (m.content or '-')[:1] %}{% endfor %}{{ ns.last }}/{{ ns.tools }}/{{ ns.text }}{% for m in messages[ns.last:] %}{{ m.role }}{% endfor %}",
    "arguments": "{% for m in messages %}{% for c in m.tool_calls or [] %}<call name='{{ c.function.name }}'>{% for k, v in c.function.arguments | items %}<{{ k }}>{{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}</{{ k }}>{% else %}none{% endfor %}</call>{{ (c.function.arguments.deep.k[0].z is none) if c.function.arguments.deep is defined }}{% endfor %}{% endfor %}",
    "lazy": "{% set roles = messages | map(attribute='role') %}{{ roles | first | default('nobody') }}:{{ roles | join(',') }}:{{ roles | list | length }}{% set upper = messages | map(attribute='role') | map('upper') %}{% for r in upper %}{{ r }}{% endfor %}{% for r in upper %}again{% else %}spent{% endfor %}{{ [1, 'a'] | map('abs') | first }}",
    "parts": "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for p in m.content %}{% if p.type == 'text' %}{{ p['text'] | trim }}{% elif p.type == 'image' %}<image>{% endif %}{% if not loop.last %}+{% endif %}{% endfor %}{% endif %}{% endfor %}",
    "parts_macro": "{% macro content(m) %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') if m.content }}{% endif %}{% endmacro %}{% for m in messages %}{{ loop.index }}{{ content(m) }}{% endfor %}",
    "header_turns": "{{ bos_token }}{% set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | first | default('You help.', true) %}<|S|>{{ system | trim }}<|/S|>{% for m in messages | rejectattr('role', 'equalto', 'system') %}{{ '<|' ~ {'user': 'U', 'assistant': 'A', 'tool': 'T'}[m.role] ~ '|>' }}{{ m.content or '' }}{{ '<|/|>' if not loop.last else '<|end|>' }}{% endfor %}{{ '<|A|>' if add_generation_prompt }}",
    "turn_numbers": "{% set turns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set turns.n = turns.n + 1 %}{% endif %}{{ '[Round %d] %s: %s' % (turns.n, m.role | capitalize, m.content) }}\n{% endfor %}{% if add_generation_prompt %}[Round {{ turns.n + 1 }}]{% endif %}",
    "tool_results": "{% for m in messages %}{% if m.role == 'tool' %}{% if loop.first or loop.previtem.role != 'tool' %}<results>{% endif %}\n{{ {'id': m.tool_call_id, 'output': m.content} | tojson }}{% if loop.last or loop.nextitem.role != 'tool' %}\n</results>{% endif %}{% elif m.tool_calls %}{% set names = m.tool_calls | map(attribute='function.name') | join('+') %}calls {{ names }};{% for c in m.tool_calls if c.function.arguments %}{{ c.id }}={{ c.function.arguments | dictsort | list | length }},{% endfor %}{% endif %}{% endfor %}",
    "default_system": "{% if not messages or messages[0].role != 'system' %}{% set messages = [{'role': 'system', 'content': 'Default.'}] + messages %}{% endif %}{% for m in messages %}{{ '\\n' if not loop.first }}{{ m.role ~ ': ' ~ (m.content if m.content is not none else '(none)') }}{% endfor %}{% if messages[-1].role == 'user' and add_generation_prompt is true %}\nassistant:{% endif %}",
    "error_append": "{% set l = [] %}{% set _ = l.append(1) %}",
    "error_pop": "{{ messages.pop() }}",
    "error_update": "{% set d = {} %}{{ d.update(a=1) }}",
    "error_dunder": "{{ ''.__class__.mro() }}",
    "error_loop_call": "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "error_caller": "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "error_key": "{{ {[1]: 2} }}",
    "error_format": "{{ '%d' % 'x' }}",
    "error_format_fields": "{{ '{} {}'.format(1) }}",
    "error_slice": "{{ messages['a':] }}",
    "error_index": "{{ 'abc'.index('x') }}",
    "error_sort": "{{ [1, 'a'] | sort }}",
    "error_int": "{{ missing | int }}",
    "error_star": "{{ range(*5) }}",
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
          "{% nonsense %}", "{{ (1 }}", "{{ a. }}", "{{ }}", "{% set %}", "{{ a | }}", "{{ 1 +* 2 }}", "{% else %}", "{{ a[ }}", "{{ @ }}", "{% raw %}x", "{% call x %}{% endcall %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% set true = 1 %}", "{{ f(a=1, 2) }}",
          "{{ f(**a, b) }}", "{% with a %}{% endwith %}", "{{ x is odd is even }}", "{% do x %}", "{{ 007 }}", "{{ a[1:2:3:4] }}", "{% filter %}{% endfilter %}", "{{ 'a' | }}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    env = jinja_reference.environment(NOW)
    cases = []
    for name, source in TEMPLATES.items():
        template = env.from_string(source)
        for conversation, given in CONVERSATIONS.items():
            if conversation != "one" and name.startswith("error"):
                continue
            if conversation == "parts" and not name.startswith("parts"):
                continue
            variables = {key: value for key, value in given.items() if key != "extra"} | given.get("extra", {})
            variables = {"tools": None, "documents": None, "add_generation_prompt": False} | variables
            case = {"template": name, "conversation": conversation}
            try:
                case["rendered"] = template.render(**variables)
            except jinja_reference.RENDER_ERRORS as error:
                case["error"] = str(error)
                case["raised"] = type(error) is jinja2.exceptions.TemplateError
            cases.append(case)
    for source in BROKEN:
        try:
            env.from_string(source)
        except jinja2.exceptions.TemplateSyntaxError:
            continue
        raise SystemExit(f"jinja2 takes {source!r}")
    out = {"now": NOW, "conversations": CONVERSATIONS, "templates": TEMPLATES, "cases": cases, "broken": BROKEN}
    args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()

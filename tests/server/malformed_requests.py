"""Requests that cannot be answered as asked, by kind: what each is refused with, and what becomes of
its connection. A row is the bytes that a client sends; test_malformed_requests.py sends them."""

import dataclasses
import json

# The server of these rows is started with these.
MAX_HEADER, MAX_BODY = 4096, 256 << 10
SERVER = ["--max-header-size", MAX_HEADER, "--max-body-size", MAX_BODY, "--header-timeout", 1,
          "--body-timeout", 1, "--api-key", "secret"]

# What follows the answer: the next request on the connection is answered, or the server ends the
# connection in order and answers nothing that came behind.
WORKS, CLOSES = "the next request works", "the connection closes"


@dataclasses.dataclass(frozen=True)
class Row:
    kind: str
    name: str
    sent: bytes
    status: int | None  # None: no answer, to a client that is gone
    words: str = ""  # of the error's message
    param: str | None = None
    code: str | None = None
    then: str = CLOSES
    hangs_up: bool = False  # the client ends its side after what it sent
    waits: bool = False  # the client sends no more, and stays


ROWS = []


def head(*lines):
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def post(body, *fields, path="/v1/completions"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(f"POST {path} HTTP/1.1", "Host: x", "Authorization: Bearer secret",
                f"Content-Length: {len(body)}", *fields) + body


def chat(body):
    return post(body, path="/v1/chat/completions")


def framing(name, sent, status=400, words="malformed HTTP request", **more):
    ROWS.append(Row("framing", name, sent, status, words, **more))


def tokenize(*fields, body=b""):
    """Of /tokenize, which a body of {"prompt": "x"} would be right for."""
    return head("POST /tokenize HTTP/1.1", "Host: x", *fields) + body


BODY = b'{"prompt": "x"}'
CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"

framing("not HTTP", b"hello\r\n\r\n")
framing("TLS knocks", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
framing("HTTP/2's first words", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
framing("no version", b"GET /health\r\n\r\n")
framing("version 9.9", head("GET /health HTTP/9.9", "Host: x"))
framing("version in small letters", head("GET /health http/1.1", "Host: x"))
framing("lines end in LF", b"GET /health HTTP/1.1\nHost: x\n\n", words="CR LF")
framing("one line ends in LF", b"GET /health HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", words="CR LF")
framing("lines end in CR", b"GET /health HTTP/1.1\rHost: x\r\r", words="CR LF")
framing("Content-Length, then chunked",
        tokenize("Content-Length: 15", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED))
framing("chunked, then Content-Length",
        tokenize(CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED))
framing("an unknown coding and Content-Length",
        tokenize("Transfer-Encoding: xchunked", "Content-Length: 15", body=BODY))
framing("two lengths", tokenize("Content-Length: 15", "Content-Length: 0", body=BODY))
framing("the same length twice", tokenize("Content-Length: 15", "Content-Length: 15", body=BODY))
framing("a list of lengths", tokenize("Content-Length: 15, 15", body=BODY))
framing("a length with a sign", tokenize("Content-Length: +15", body=BODY))
framing("a negative length", tokenize("Content-Length: -1"))
framing("a length in hex", tokenize("Content-Length: 0xf", body=BODY))
framing("a length with a blank", tokenize("Content-Length: 1 5", body=BODY))
framing("an empty length", tokenize("Content-Length:", body=BODY))
framing("a length past 64 bits", tokenize("Content-Length: 18446744073709551631", body=BODY))
framing("a coding that is not known", tokenize("Transfer-Encoding: gzip"), 501, "chunked")
framing("chunked is not the last coding", tokenize("Transfer-Encoding: chunked, identity"), 501, "chunked")
framing("codings before chunked", tokenize("Transfer-Encoding: gzip, chunked"), 501, "chunked")
framing("chunked twice", tokenize(CHUNKED, CHUNKED, body=b"0\r\n\r\n"))
framing("a blank before the colon", tokenize("Transfer-Encoding : chunked", body=b"0\r\n\r\n"))
framing("a control character in the coding", tokenize("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"))
framing("chunked in HTTP/1.0", head("POST /tokenize HTTP/1.0", CHUNKED) + b"0\r\n\r\n")
framing("a chunk's size is no number", tokenize(CHUNKED, body=b"zz\r\n"))
framing("a chunk's size is negative", tokenize(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n"))
framing("a chunk's size has a prefix", tokenize(CHUNKED, body=b"0xf\r\n" + BODY + b"\r\n0\r\n\r\n"))
framing("a chunk's size past 64 bits", tokenize(CHUNKED, body=b"fffffffffffffffff\r\n"))
framing("a chunk is longer than its size", tokenize(CHUNKED, body=b"5\r\n" + BODY + b"\r\n0\r\n\r\n"))
framing("a chunk's size ends in LF", tokenize(CHUNKED, body=b"f\n" + BODY + b"\n0\n\n\r\n"))
framing("a chunk's extension never ends", tokenize(CHUNKED, body=b"f;" + b"a" * 40_000), words="too long")
framing("a length among the trailers",
        tokenize(CHUNKED, body=b"f\r\n" + BODY + b"\r\n0\r\nContent-Length: 3\r\n\r\n"))
framing("the head never ends", b"GET /health HTTP/1.1\r\nHost: x\r\n", 408, "in time", waits=True)
framing("the body never comes", tokenize("Content-Length: 15"), 408, "in time", waits=True)
framing("the chunks never end", tokenize(CHUNKED, body=b"f\r\n" + BODY), 408, "in time", waits=True)
framing("the client goes in the head", b"GET /health HTTP/1.1\r\nHos", None, hangs_up=True)
framing("the client goes in the body", tokenize("Content-Length: 15", body=b'{"pro'), None, hangs_up=True)
framing("the client goes in a chunk", tokenize(CHUNKED, body=b"f\r\n{"), None, hangs_up=True)


def headers(name, sent, status=400, words="malformed HTTP request", **more):
    ROWS.append(Row("headers", name, sent, status, words, **more))


def health(*fields):
    return head("GET /health HTTP/1.1", "Host: x", *fields)


headers("no Host", head("GET /health HTTP/1.1"), words="Host")
headers("two Hosts", health("Host: y"), words="Host")
headers("the same Host twice", health("Host: x"), words="Host")
headers("a field on two lines", health("X-A: b\r\n c"), words="one line")
headers("a field on two lines, by a tab", health("X-A: b\r\n\tc"), words="one line")
headers("a blank before the first field", head("GET /health HTTP/1.1", " Host: x"), words="one line")
headers("NUL in a value", health("X-A: b\0c"), words="0x00")
headers("DEL in a value", health("X-A: b\x7fc"), words="0x7f")
headers("ESC in a name", health("X\x1b-A: b"), words="0x1b")
headers("CR in a value", health("X-A: b\rX-B: c"), words="CR LF")
headers("a blank in a name", health("X A: b"))
headers("a name beyond ASCII", health("X-\xe4: b"))
headers("no name", health(": b"))
headers("no colon", health("X-A"))
headers("an expectation that is not known", health("Expect: a-miracle"), 417, "100-continue")
headers("two blanks in the request line", head("GET  /health HTTP/1.1", "Host: x"))
headers("a tab in the request line", head("GET\t/health HTTP/1.1", "Host: x"))
headers("a blank after the version", head("GET /health HTTP/1.1 ", "Host: x"))
headers("a blank in the target", head("GET /hea lth HTTP/1.1", "Host: x"))
headers("no target", head("GET HTTP/1.1", "Host: x"))
headers("half of an escape", head("GET /%zz HTTP/1.1", "Host: x"), words="not a URL")
headers("a fragment in the target", head("GET /health#x HTTP/1.1", "Host: x"), words="not a URL")
headers("a proxy's method", head("CONNECT x:443 HTTP/1.1", "Host: x"), words="not a URL")
headers("no method", head(" /health HTTP/1.1", "Host: x"))
headers("a bracket in the method", head("GE(T /health HTTP/1.1", "Host: x"))
headers("a method in small letters", head("get /health HTTP/1.1", "Host: x"), 405, "takes GET",
        code="method_not_allowed", then=WORKS)
headers("a method that nobody knows", head("BREW /v1/completions HTTP/1.1", "Host: x"), 405, "takes POST",
        code="method_not_allowed", then=WORKS)
headers("a method of another path", head("DELETE /v1/models HTTP/1.1", "Host: x"), 405, "takes GET",
        code="method_not_allowed", then=WORKS)
headers("no key", head("GET /v1/models HTTP/1.1", "Host: x"), 401, "API key", code="invalid_api_key",
        then=WORKS)
headers("a key of another scheme", head("GET /v1/models HTTP/1.1", "Host: x", "Authorization: Basic secret"),
        401, "API key", code="invalid_api_key", then=WORKS)
headers("a key among the trailers",
        head("POST /v1/completions HTTP/1.1", "Host: x", CHUNKED) +
        b"f\r\n" + BODY + b"\r\n0\r\nAuthorization: Bearer secret\r\n\r\n",
        401, "API key", code="invalid_api_key", then=WORKS)


def encodings(name, sent, status=400, words="", code="invalid_json", **more):
    ROWS.append(Row("encodings", name, sent, status, words, code=code, **more))


for coding in ("gzip", "br", "deflate", "gzip, identity", "zstd"):
    encodings(f"Content-Encoding {coding}", post(BODY, f"Content-Encoding: {coding}"), 415,
              "Content-Encoding", code=None)
for charset in ("utf-16", '"UTF-16"', "iso-8859-1; x=y"):
    encodings(f"charset {charset}", post(BODY, f"Content-Type: application/json; charset={charset}"), 415,
              "UTF-8", code=None)
for name, text in [
    ("bytes that are not UTF-8", b"\xff\xfe"), ("a longer spelling of NUL", b"\xc0\x80"),
    ("a surrogate in UTF-8", b"\xed\xa0\x80"), ("a character cut off", b"\xe2\x82"),
    ("a character of five bytes", b"\xf8\x88\x80\x80\x80"), ("past the last character", b"\xf4\x90\x80\x80"),
    ("a continuation alone", b"\x80"), ("half a surrogate pair", b"\\ud83d"),
    ("the other half", b"\\ude00"), ("a pair the wrong way round", b"\\ude00\\ud83d"),
    ("an unknown escape", b"\\x41"), ("an escape that is not hex", b"\\u12g4"),
    ("a raw line break in a string", b"a\nb"), ("a raw NUL in a string", b"a\0b"),
]:
    encodings(name, post(b'{"prompt": "' + text + b'"}'), then=WORKS)
encodings("a byte order mark", post(b"\xef\xbb\xbf" + BODY), then=WORKS)
encodings("UTF-16", post('{"prompt": "x"}'.encode("utf-16")), then=WORKS)
encodings("UTF-32", post('{"prompt": "x"}'.encode("utf-32-le")), then=WORKS)
encodings("a form", post(b"prompt=x&max_tokens=3", "Content-Type: application/x-www-form-urlencoded"), then=WORKS)
encodings("gzip that does not say so", post(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), then=WORKS)
encodings("single quotes", post(b"{'prompt': 'x'}"), then=WORKS)
encodings("a comment", post(b'{"prompt": "x" /* why */}'), then=WORKS)
encodings("a comma too many", post(b'{"prompt": "x",}'), then=WORKS)
encodings("two documents", post(BODY + BODY), then=WORKS)
encodings("a document cut off", post(b'{"prompt": "x"'), then=WORKS)


def fields(kind, name, body, param, words="", code="invalid_value", status=400, send=post):
    ROWS.append(Row(kind, name, send(body), status, words, param, code, WORKS))


X = {"prompt": "x"}
USER = {"role": "user", "content": "x"}
CHAT = {"messages": [USER]}


def types(name, body, param, words="", send=post):
    fields("types", name, body, param, words, "invalid_type", send=send)


types("temperature is a string", {**X, "temperature": "hot"}, "temperature", "a number, got a string")
types("top_p is a list", {**X, "top_p": [1]}, "top_p", "an array")
types("n is a string", {**X, "n": "2"}, "n", "an integer, got a string")
types("n is a boolean", {**X, "n": True}, "n", "a boolean")
types("max_tokens is a string", {**X, "max_tokens": "many"}, "max_tokens")
types("stream is a string", {**X, "stream": "yes"}, "stream", "a boolean, got a string")
types("stream is a number", {**X, "stream": 1}, "stream")
types("stop is a number", {**X, "stop": 5}, "stop")
types("stop holds a number", {**X, "stop": ["a", 5]}, "stop")
types("seed is a string", {**X, "seed": "7"}, "seed")
types("logit_bias is a list", {**X, "logit_bias": [1]}, "logit_bias")
types("logit_bias holds a string", {**X, "logit_bias": {"5": "x"}}, "logit_bias")
types("model is a number", {**X, "model": 4}, "model", "a string, got a number")
types("prompt is an object", {"prompt": {"text": "x"}}, "prompt", "a string, an array")
types("prompt is a number", {"prompt": 5}, "prompt")
types("prompt mixes strings and ids", {"prompt": ["x", 5]}, "prompt")
types("prompt holds half an id", {"prompt": [1, 1.5]}, "prompt")
types("echo is a string", {**X, "echo": "true"}, "echo")
types("stream_options is a string", {**X, "stream": True, "stream_options": "usage"}, "stream_options")
types("stop_token_ids is an object", {**X, "stop_token_ids": {}}, "stop_token_ids")
types("messages is a string", {"messages": "hello"}, "messages", "an array", send=chat)
types("a message is a string", {"messages": ["hello"]}, "messages", send=chat)
types("a role is a number", {"messages": [{"role": 1, "content": "x"}]}, "messages[0].role", send=chat)
types("a content is a number", {"messages": [{"role": "user", "content": 1}]}, "messages[0].content", send=chat)
types("a part is a string", {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content", send=chat)
types("logprobs of a chat is a number", {**CHAT, "logprobs": 3}, "logprobs", send=chat)
types("tool_choice is a number", {**CHAT, "tool_choice": 1}, "tool_choice", send=chat)
types("tokens is a string", {"tokens": "x"}, "tokens", send=lambda body: post(body, path="/detokenize"))
for name, body in [("an array", b"[]"), ("a string", b'"x"'), ("a number", b"5"), ("null", b"null"),
                   ("a boolean", b"true")]:
    fields("types", f"the body is {name}", body, None, f"a JSON object, got {name}", None)


def ranges(name, body, param, words="", send=post):
    fields("ranges", name, body, param, words, send=send)


for field, least, most in [("temperature", -0.1, 2.1), ("top_p", 0, 1.1), ("min_p", -0.1, 1.1),
                           ("top_k", -2, 2**31), ("n", 0, 129), ("presence_penalty", -2.1, 2.1),
                           ("frequency_penalty", -2.1, 2.1), ("repetition_penalty", 0, 101),
                           ("max_tokens", -1, 2**40), ("min_tokens", -1, 2**40), ("logprobs", -1, 99)]:
    ranges(f"{field} is too small", {**X, field: least}, field, field)
    ranges(f"{field} is too large", {**X, field: most}, field, "at most")
ranges("no token is asked for", {**X, "max_tokens": 0}, "max_tokens")
ranges("half a choice", {**X, "n": 1.5}, "n", "an integer")
ranges("a seed past 64 bits", {**X, "seed": 2**64}, "seed", "an integer")
ranges("max_tokens past what a double holds", {**X, "max_tokens": 10**30}, "max_tokens")
ranges("an id past the vocabulary", {"prompt": [10**6]}, "prompt", "outside the vocabulary")
ranges("a negative id", {"prompt": [-1]}, "prompt", "outside the vocabulary")
ranges("a bias past its bounds", {**X, "logit_bias": {"5": 101}}, "logit_bias", "between -100 and 100")
ranges("a bias of no token", {**X, "logit_bias": {"-1": 1}}, "logit_bias", "token ids")
ranges("a bias of a token's other spelling", {**X, "logit_bias": {"05": 1}}, "logit_bias", "token ids")
ranges("top_logprobs is too large", {**CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs", send=chat)
ranges("an id that no text has", {"tokens": [10**6]}, "tokens", "outside the vocabulary",
       send=lambda body: post(body, path="/detokenize"))
fields("ranges", "a number past every double", b'{"prompt": "x", "temperature": 1e999}', "temperature", "at most")
for word in (b"NaN", b"Infinity", b"-", b"01", b".5", b"0x10", b"+1"):
    fields("ranges", f"{word.decode()} is no number of JSON", b'{"prompt": "x", "temperature": ' + word + b"}",
           None, "", "invalid_json")


def sizes(name, sent, status=400, words="", then=WORKS, **more):
    ROWS.append(Row("sizes", name, sent, status, words, then=then, **more))


def too_long(name, body, param, words="", send=post, code="invalid_value"):
    fields("sizes", name, body, param, words, code, send=send)


LONG = "x" * (MAX_HEADER + 1)
sizes("a target past the limit", head(f"GET /{LONG} HTTP/1.1", "Host: x"), 414, "target", CLOSES)
sizes("a field past the limit", health(f"X-A: {LONG}"), 431, "head is longer", CLOSES)
sizes("many fields past the limit", health(*[f"X-{i}: y" for i in range(1000)]), 431, "head is longer", CLOSES)
sizes("a body past the limit", post(b" " * (MAX_BODY + 1)), 413, "body is larger", CLOSES)
sizes("a body that says it is", tokenize("Content-Length: 99999999999"), 413, "body is larger", CLOSES)
sizes("a body that asks first", tokenize("Content-Length: 99999999999", "Expect: 100-continue"), 413,
      "body is larger", CLOSES)
sizes("a chunk past the limit", tokenize(CHUNKED, body=b"%x\r\n" % (MAX_BODY + 1)), 413, "body is larger", CLOSES)
sizes("chunks past the limit", tokenize(CHUNKED, body=(b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 9), 413,
      "body is larger", CLOSES)
sizes("no body", post(b""), words="not valid JSON", code="invalid_json")
sizes("no body and no length", head("POST /tokenize HTTP/1.1", "Host: x"), words="not valid JSON",
      code="invalid_json")
too_long("no prompt", {}, "prompt", "is missing", code="missing_required_parameter")
too_long("an empty prompt", {"prompt": ""}, "prompt", "at least one token")
too_long("an empty list of prompts", {"prompt": []}, "prompt", "empty array")
too_long("a prompt without ids", {"prompt": [[]]}, "prompt", "at least one token")
too_long("a prompt past the context", {"prompt": [5] * 20_000}, "prompt", "maximum context length",
         code="context_length_exceeded")
too_long("an answer past the context", {**X, "max_tokens": 2**30}, "prompt", "maximum context length",
         code="context_length_exceeded")
too_long("too many choices", {"prompt": ["x"] * 300, "n": 4}, "prompt", "at most 1024, got 1200")
too_long("too many stops", {**X, "stop": [str(i) for i in range(17)]}, "stop", "at most 16")
too_long("too long a stop", {**X, "stop": "z" * 5000}, "stop", "at most 4096 bytes")
too_long("an empty stop", {**X, "stop": [""]}, "stop", "empty string")
too_long("too many stop tokens", {**X, "stop_token_ids": [5] * 257}, "stop_token_ids", "at most 256")
too_long("no messages", {"messages": []}, "messages", "from 1 to 4096", send=chat)
too_long("too many messages", {"messages": [USER] * 4097}, "messages", "from 1 to 4096", send=chat)
too_long("messages are missing", {}, "messages", "is missing", send=chat, code="missing_required_parameter")


def nested(opening, closing, depth):
    return b'{"prompt": ' + opening * depth + closing * depth + b"}"


def nesting(name, sent, words="nested more than 32 deep", code=None):
    ROWS.append(Row("nesting", name, sent, 400, words, code=code, then=WORKS))


for depth in (33, 1000, 100_000):
    nesting(f"{depth} lists", post(nested(b"[", b"]", depth)))
    nesting(f"{depth} lists that never end", post(b'{"prompt": ' + b"[" * depth))
for depth in (33, 40_000):
    nesting(f"{depth} objects", post(nested(b'{"a":', b"}", depth).replace(b"}", b"1}", 1)))
nesting("lists and objects in turns", post(nested(b'[{"a":', b"}]", 20).replace(b"}", b"1}", 1)))
nesting("a list of lists alone", post(b"[" * 10_000))
nesting("in a message", chat(b'{"messages": ' + b"[" * 40 + b"]" * 40 + b"}"))
nesting("in a field that changes nothing", post(b'{"prompt": "x", "metadata": ' + b"[" * 40 + b"]" * 40 + b"}"))
nesting("in a field that nobody reads", post(b'{"prompt": "x", "y": ' + b"[" * 40 + b"]" * 40 + b"}"))
nesting("in a template's variable",
        chat(b'{"messages": [], "chat_template_kwargs": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}"))
nesting("more ends than beginnings", post(b'{"prompt": "x"}' + b"}" * 100), "not valid JSON", "invalid_json")
nesting("ends of the other kind", post(b'{"prompt": [[["x"}}}}'), "not valid JSON", "invalid_json")


def models(name, sent, words="does not exist"):
    ROWS.append(Row("unknown models", name, sent, 404, words, "model", "model_not_found", WORKS))


for name in ("gpt-4o", "Storyteller", "storyteller ", " storyteller", "../storyteller", "org/storyteller",
             "storyteller:latest", "story", "default", "x" * 10_000, "a\0b", "\U0001f43a", "{}", "*"):
    models(f"completions by {name[:20]!r}", post({**X, "model": name}))
models("a chat by gpt-4o", chat({**CHAT, "model": "gpt-4o"}))
models("generate by gpt-4o", post({**X, "model": "gpt-4o"}, path="/v1/generate"))
models("generate_stream by gpt-4o", post({**X, "model": "gpt-4o"}, path="/v1/generate_stream"))
models("tokenize by gpt-4o", post({**X, "model": "gpt-4o"}, path="/tokenize"))
models("detokenize by gpt-4o", post({"tokens": [5], "model": "gpt-4o"}, path="/detokenize"))
for path in ("gpt-4o", "%00", "%2e%2e%2f", "%ff%fe", "storyteller/x"):
    models(f"GET of {path}", head(f"GET /v1/models/{path} HTTP/1.1", "Host: x", "Authorization: Bearer secret"))


def combinations(name, body, param, words="", code="invalid_value", send=post):
    fields("impossible combinations", name, body, param, words, code, send=send)


UNSUPPORTED = "unsupported_parameter"
combinations("stream_options without stream", {**X, "stream_options": {"include_usage": True}}, "stream_options")
combinations("best_of above n", {**X, "n": 1, "best_of": 3}, "best_of", "must equal n")
combinations("min_tokens above max_tokens", {**X, "max_tokens": 2, "min_tokens": 3}, "min_tokens")
combinations("two lengths that differ", {**CHAT, "max_tokens": 2, "max_completion_tokens": 3},
             "max_completion_tokens", "max_tokens", send=chat)
combinations("top_logprobs without logprobs", {**CHAT, "top_logprobs": 2}, "top_logprobs", "logprobs", send=chat)
combinations("top_logprobs of a completion", {**X, "top_logprobs": 2}, "top_logprobs", code=UNSUPPORTED)
combinations("messages of a completion", {**X, "messages": [USER]}, "messages", code=UNSUPPORTED)
combinations("a prompt of a chat", {**CHAT, "prompt": "x"}, "prompt", code=UNSUPPORTED, send=chat)
combinations("echo in a chat", {**CHAT, "echo": True}, "echo", code=UNSUPPORTED, send=chat)
combinations("two choices of generate", {**X, "n": 2}, "n", send=lambda body: post(body, path="/v1/generate"))
combinations("two prompts of generate", {"prompt": ["x", "y"]}, "prompt", "one prompt",
             send=lambda body: post(body, path="/v1/generate"))
combinations("a tool that must be called", {**CHAT, "tool_choice": "required"}, "tool_choice", code=UNSUPPORTED,
             send=chat)
combinations("tools", {**CHAT, "tools": [{"type": "function"}]}, "tools", code=UNSUPPORTED, send=chat)
combinations("an answer of JSON", {**CHAT, "response_format": {"type": "json_object"}}, "response_format",
             "must have type 'text'", send=chat)
combinations("an answer of sound", {**CHAT, "modalities": ["text", "audio"]}, "modalities", code=UNSUPPORTED,
             send=chat)
combinations("a picture", {"messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content", "text only", send=chat)
combinations("a message without content", {"messages": [{"role": "user"}]}, "messages[0].content", send=chat)
combinations("a role that nobody has", {"messages": [{"role": "wolf", "content": "x"}]}, "messages[0].role",
             send=chat)
combinations("calls of tools by the assistant",
             {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]},
             "messages[0].tool_calls", code=UNSUPPORTED, send=chat)
combinations("the template's own variable", {**CHAT, "chat_template_kwargs": {"messages": []}},
             "chat_template_kwargs.messages", send=chat)
combinations("a grammar", {**X, "regex": "[a-z]+"}, "regex", "leave it out", code=UNSUPPORTED)
combinations("text behind the hole", {**X, "suffix": "the end"}, "suffix", code=UNSUPPORTED)
combinations("a misspelt field", {**X, "max_token": 5}, "max_token", "did you mean max_tokens?", code=UNSUPPORTED)
combinations("a field that OpenAI does not know", {**X, "spoon": 5}, "spoon", code=UNSUPPORTED)

"""HTTP as plain bytes over a socket, for what no well-behaved client would send."""

import dataclasses
import json
import socket
import ssl
import time


@dataclasses.dataclass(frozen=True)
class Address:
    host: str
    port: int
    tls: ssl.SSLContext | None = None  # what a client trusts

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def connect(address, timeout=60):
    plain = socket.create_connection((address.host, address.port), timeout=timeout)
    return address.tls.wrap_socket(plain, server_hostname=address.host) if address.tls else plain


def read_answer(file, head_only=False):
    """Reads one answer from a socket's file, with a Content-Length, chunked, or to the end."""
    status_line = file.readline()
    assert status_line.startswith(b"HTTP/1.1 "), status_line
    status = int(status_line.split()[1])
    headers = {}
    while (line := file.readline().strip()):
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    if head_only or status in (100, 204):
        return Answer(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while (size := int(file.readline(), 16)) > 0:
            body += file.read(size)
            assert file.read(2) == b"\r\n"
        assert file.readline() == b"\r\n"
        return Answer(status, headers, body)
    if "content-length" in headers:
        return Answer(status, headers, file.read(int(headers["content-length"])))
    return Answer(status, headers, file.read())


def encode(method, path, body=b"", headers=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def request(address, method, path, body=b"", headers=()):
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
    with connect(address) as connection:
        connection.sendall(encode(method, path, body, headers))
        with connection.makefile("rb") as file:
            return read_answer(file, head_only=method == "HEAD")


def events(answer):
    """The JSON of an event stream's answer, which must end with [DONE]."""
    parts = answer.body.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""], parts[-3:]
    assert all(part.startswith("data: ") for part in parts[:-1])
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def metric(address, name):
    """The sum of a metric's samples; None when there is none of that name."""
    samples = []
    for line in request(address, "GET", "/metrics").body.decode().splitlines():
        if line.split("{")[0].split(" ")[0] == name:
            samples.append(float(line.rsplit(" ", 1)[1]))
    return sum(samples) if samples else None


def await_metric(address, name, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while (value := metric(address, name)) != wanted:
        assert time.monotonic() < deadline, f"{name} is {value}, wanted {wanted}"
        time.sleep(0.05)

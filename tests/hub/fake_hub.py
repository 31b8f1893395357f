"""A model hub on loopback: the parts of the Hugging Face hub's HTTP interface that a pull uses, with a
second port as the CDN that large files are redirected to, and faults on demand.

The hub answers GET /api/models/ORG/NAME/revision/REV and GET or HEAD /ORG/NAME/resolve/SHA/FILE. Files are
told from each other as on the real one: large ones by SHA-256, the others by git's SHA-1.
"""

import collections
import hashlib
import json
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 4096  # bytes from which a file is kept as the hub keeps large ones
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next `times` requests for a file's content."""

    times: int = 1
    status: int = 0  # answered instead of the content
    headers: dict = field(default_factory=dict)
    cut_after: int = -1  # bytes of the body after which the connection is closed
    content: bytes = None  # served in place of the file's
    delay_each: float = 0  # seconds before each 16 KB
    no_ranges: bool = False  # the whole file whatever range is asked for
    chunked: bool = False


@dataclass
class Seen:
    host: str  # "hub" or "cdn"
    method: str
    path: str
    range: str
    authorization: str
    status: int = 0


@dataclass
class Model:
    revisions: dict  # revision -> commit
    files: dict  # path -> content
    gated_for: str = None  # the only token that may read it
    listed: list = None  # siblings instead of those that `files` has
    blobs: bool = True  # whether the list has sizes and hashes


class Hub:
    """Use as a context manager. `requests` records what came, in order."""

    def __init__(self, tls=None):
        self.models = {}
        self.faults = collections.defaultdict(list)  # (host, path) -> [Fault]
        self.requests = []
        self.lock = threading.Lock()
        self.tls = tls  # (certificate file, key file)
        self.redirect_to = None  # in place of the CDN's address

    def add(self, name, files, revisions=None, **options):
        self.models[name] = Model(revisions or {"main": COMMIT, COMMIT: COMMIT}, files, **options)

    def fail(self, host, path, **fault):
        self.faults[host, path].append(Fault(**fault))

    def take_fault(self, host, path):
        with self.lock:
            waiting = self.faults[host, path]
            if not waiting:
                return None
            waiting[0].times -= 1
            return waiting.pop(0) if waiting[0].times == 0 else waiting[0]

    def __enter__(self):
        self.servers = [self._serve("hub"), self._serve("cdn")]
        scheme = "https" if self.tls else "http"
        self.endpoint = f"{scheme}://localhost:{self.servers[0].server_address[1]}"
        # The CDN is another host by its name, too.
        cdn_host = "localhost" if self.tls else "127.0.0.1"
        self.cdn = f"{scheme}://{cdn_host}:{self.servers[1].server_address[1]}"
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def _serve(self, host):
        hub = self

        class Bound(Handler):
            pass

        Bound.hub, Bound.host = hub, host
        server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        server.daemon_threads = True
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def content_requests(self, path, host=None):
        return [
            seen
            for seen in self.requests
            if seen.path.endswith("/" + path) and seen.method == "GET" and host in (None, seen.host)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None
    host = None

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError, TimeoutError):
            pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        self.seen = Seen(
            self.host, self.command, urllib.parse.unquote(url.path),
            self.headers.get("Range", ""), self.headers.get("Authorization", ""),
        )
        with self.hub.lock:
            self.hub.requests.append(self.seen)
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if self.host == "cdn":
            name, path = "/".join(parts[:2]), "/".join(parts[2:])
            return self.send_content(self.hub.models[name].files[path], path, {"ETag": '"cdn-etag"'})
        if parts[:2] == ["api", "models"]:
            return self.send_list("/".join(parts[2:4]), parts[5], url.query)
        return self.send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def refuse(self, status, code="", message="", headers=None):
        self.answer(status, b"refused", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def answer(self, status, body, headers):
        self.seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def find(self, name):
        model = self.hub.models.get(name)
        if model is None:
            self.refuse(401 if not self.headers.get("Authorization") else 404, "RepoNotFound")
        elif model.gated_for and self.headers.get("Authorization") != f"Bearer {model.gated_for}":
            status = 403 if self.headers.get("Authorization") else 401
            self.refuse(status, "GatedRepo", "Access to this model is restricted")
        else:
            return model
        return None

    def send_list(self, name, revision, query):
        fault = self.hub.take_fault("hub", "api")
        if fault is not None:
            return self.refuse(fault.status, headers=fault.headers)
        model = self.find(name)
        if model is None:
            return None
        if revision not in model.revisions:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = model.listed or [self.sibling(model, *item, query) for item in model.files.items()]
        body = {"id": name, "sha": model.revisions[revision], "siblings": siblings}
        return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def sibling(self, model, path, content, query):
        entry = {"rfilename": path}
        if model.blobs and "blobs=true" in query:
            entry.update(size=len(content), blobId=git_sha1(content))
            if len(content) >= LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return entry

    def send_file(self, name, commit, path):
        model = self.find(name)
        if model is None:
            return None
        if commit not in model.revisions.values() or path not in model.files:
            return self.refuse(404, "EntryNotFound")
        content = model.files[path]
        if len(content) < LARGE:
            return self.send_content(content, path, {"ETag": f'"{git_sha1(content)}"'})
        fault = self.hub.take_fault("hub", path)
        if fault is not None:
            return self.refuse(fault.status, headers=fault.headers)
        base = self.hub.redirect_to or self.hub.cdn
        return self.answer(
            302,
            b"elsewhere",
            {
                "Location": f"{base}/{name}/{urllib.parse.quote(path)}?signature=x",
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": commit,
            },
        )

    def send_content(self, content, path, headers):
        fault = self.hub.take_fault(self.host, path) or Fault()
        if fault.status:
            return self.refuse(fault.status, headers=fault.headers)
        if fault.content is not None:
            content = fault.content
        first, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and not fault.no_ranges and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= len(content):
                return self.refuse(416, headers={"Content-Range": f"bytes */{len(content)}"})
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.seen.status = status
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "HEAD":
            return None
        return self.send_body(content[first:], fault)

    def send_body(self, body, fault):
        for begin in range(0, len(body), 16384):
            piece = body[begin : begin + 16384]
            if fault.cut_after >= 0 and begin + len(piece) > fault.cut_after:
                self.wfile.write(piece[: max(0, fault.cut_after - begin)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault.delay_each:
                time.sleep(fault.delay_each)
            if fault.chunked:
                self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
            else:
                self.wfile.write(piece)
        if fault.chunked:
            self.wfile.write(b"0\r\n\r\n")

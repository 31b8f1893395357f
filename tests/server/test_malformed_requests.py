"""Sends each row of malformed_requests.py over a connection of its own."""

import collections
import json

import pytest

import malformed_requests
import raw_http
from conftest import serving

ROWS = malformed_requests.ROWS
NEXT = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def address():
    with serving(*malformed_requests.SERVER) as (address, _):
        yield address


def check_refusal(row, answer):
    assert answer.status == row.status, answer.body
    assert answer.headers["content-type"] == "application/json"
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if row.status < 500 else "server_error")
    assert (error["param"], error["code"]) == (row.param, row.code), error
    assert row.words in error["message"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.name}")
def test_malformed_request(address, row):
    with raw_http.connect(address) as connection, connection.makefile("rb") as file:
        # The next request comes in one piece with this one, where a server that loses count of
        # bytes answers the wrong one.
        connection.sendall(row.sent + (b"" if row.waits or row.hangs_up else NEXT))
        if row.hangs_up:
            connection.shutdown(1)
        if row.status is not None:
            answer = raw_http.read_answer(file)
            check_refusal(row, answer)
            assert answer.headers["connection"] == ("close" if row.then == malformed_requests.CLOSES else "keep-alive")
        if row.then == malformed_requests.WORKS:
            assert "version" in raw_http.read_answer(file).json()
        else:
            connection.settimeout(20)
            assert file.read() == b""
    assert raw_http.request(address, "GET", "/health").status == 200


def test_the_table_is_whole():
    kinds = collections.Counter(row.kind for row in ROWS)
    assert len(kinds) == 9 and min(kinds.values()) >= 10 and len(ROWS) >= 120, kinds
    assert len({(row.kind, row.name) for row in ROWS}) == len(ROWS)

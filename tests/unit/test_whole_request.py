"""What is read of a request in one piece: never other than aiohttp reads it, and only where there is one way to."""

import asyncio
from collections.abc import Mapping

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from gateway.whole_request import MOST_BYTES, Head, Unread, Whole, read

HEADERS = {
    "Host": "x",
    "Authorization": "Bearer shop.key",
    "Content-Type": "application/json",
    "Content-Encoding": "gzip",
    "Content-Length": "4",
}


START = "POST /v1/batches HTTP/1.1"


def request(headers: Mapping[str, str] = HEADERS, body: bytes = b"body", start: str = START) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def with_header(name: str, value: str) -> bytes:
    return request({**HEADERS, name: value})


def test_a_whole_request_is_read() -> None:
    head = Head("Bearer shop.key", "application/json", "gzip", 4)
    assert read(request()) == Whole(head, b"body")
    assert read(request({name.upper(): f"  {value} " for name, value in HEADERS.items()})) == Whole(head, b"body")
    assert read(with_header("Connection", "Keep-Alive")) == Whole(head, b"body")
    assert read(request({"Host": "x", "Content-Length": "0"}, b"")) == Whole(Head("", "", "identity", 0), b"")


def test_every_part_of_a_request_asks_for_more() -> None:
    whole = request()
    assert {read(whole[:size]) for size in range(1, len(whole))} == {Unread.PARTIAL}


@pytest.mark.parametrize(
    "strange",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        request(start="POST /v1/batches?x=1 HTTP/1.1"),
        request(start="POST /v1/batches HTTP/1.0"),
        request(start="post /v1/batches HTTP/1.1"),
        request({}),
        request({"Host": "x"}),
        request({"Content-Length": "4"}),
        request() + b"P",
        request() + request(),
        with_header("Transfer-Encoding", "chunked"),
        with_header("Transfer-encoding", "identity"),
        with_header("Expect", "100-continue"),
        with_header("Connection", "close"),
        with_header("Connection", "keep-alive, upgrade"),
        with_header("content-length", "4"),
        with_header("HOST", "y"),
        with_header("Content-Length", "+4"),
        with_header("Content-Length", "4, 4"),
        with_header("Content-Length", "-1"),
        with_header("Content-Length", ""),
        with_header("Content-Length", str(MOST_BYTES)),
        with_header("Content-Length", "9" * 30),
        with_header("X-Name ", "a space before the colon"),
        with_header(" X-Folded", "1"),
        with_header("X_Name", "1"),
        with_header("", "1"),
        with_header("X", "a\rb"),
        with_header("X", "a\nb"),
        with_header("X", "a\r\n b"),
        with_header("X", "a\tb"),
        with_header("X", "a\0b"),
        with_header("X", "ä"),
        with_header("X", "x" * 9000),
        request().replace(b"\r\n", b"\n"),
        request().replace(b"Host: x", b"Host x"),
        b"POST /v1/batches HTTP/1.1\r\n" + b"x" * 9000,
    ],
)
def test_what_is_strange_is_not_read(strange: bytes) -> None:
    assert read(strange) is Unread.STRANGE


# Pieces that a request is made of, right and wrong, so that many made-up ones are nearly right.
PIECES = st.sampled_from(
    rb"\r\n|\n|\r|:| |\t|\0|,|4|04|0x4|5|keep-alive|chunked|Content-Length: 4\r\n|Transfer-Encoding: chunked\r\n|"
    rb"Content-Encoding: br\r\n|X: y\r\n| z\r\n".decode("unicode_escape")
    .encode()
    .split(b"|")
)


@given(st.lists(st.tuples(st.integers(0, len(request())), st.integers(0, 6), PIECES), max_size=3))
def test_what_is_read_is_what_aiohttp_reads(changes: list[tuple[int, int, bytes]]) -> None:
    data = request()
    for at, removed, piece in changes:
        data = data[:at] + piece + data[at + removed :]
    found = read(data)
    if isinstance(found, Whole):
        assert by_aiohttp(data) == found


def by_aiohttp(data: bytes) -> Whole:
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
        [(message, payload)], upgraded, tail = parser.feed_data(data)
        assert (message.method, message.path, upgraded, tail) == ("POST", "/v1/batches", False, b"")
        assert (message.version, message.should_close, payload.is_eof()) == ((1, 1), False, True)
        value = message.headers.get
        head = Head(
            value("Authorization", ""),
            value("Content-Type", ""),
            value("Content-Encoding", "identity"),
            int(value("Content-Length", "-1")),
        )
        return Whole(head, payload.read_nowait())
    finally:
        loop.close()

"""What comes over a connection from a caller: the first byte says in which pieces, the rest comes.

Each request is answered, in HTTP, with a documented status, and a connection that ends leaves nothing behind.
On the direct way and on uvicorn's own the answers are the same.
"""

import re

from fuzz.callers_in_memory import Callers
from fuzz.in_memory import InMemory, Servers
from gateway.core.settings import LimitsSettings

STATUSES = frozenset({100, 200, 400, 404, 405, 413, 422, 431})
_TYPES = (b"application/json", b"text/html; charset=utf-8", b"text/plain; version=0.0.4; charset=utf-8")
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]*\r\n((?:[a-z-]+: [\x20-\x7e]*\r\n)*)\r\n")

_BROKEN = re.compile(rb'"code":"(not_http|large_\w+|many_headers)"')
"""Ends a connection with whatever is under way on it, and that is not the same on both ways."""

_memory = InMemory(Servers())
_limits = LimitsSettings(body_bytes_max=300, header_bytes_max=500, headers_max=12)
_direct = Callers(_memory, _memory.calls, _limits)
_ordinary = Callers(_memory, {}, _limits)

_BODY = b'{"model":"bert","input":"a"}'
_OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"
_POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b"
_CHUNKS = b'5;a=b\r\n{"mod\r\n18\r\nel":"bert","inputs":"a"}\r\n0\r\nx: y\r\n\r\n'
_WISHES = b"x-request-timeout: 5\r\nx-priority: bulk\r\n"
_REQUESTS = [
    _POST % (b"/v1/embeddings", b"", len(_BODY), _BODY),
    _POST % (b"/v1/embeddings", b"Expect: 100-continue\r\nx-request-id: a\r\n", len(_BODY), _BODY),
    _POST % (b"/engines/bert/embeddings?a=b", _WISHES, len(_BODY), _BODY),
    _POST % (b"/infinity/v1/rerank", b"Content-Encoding: gzip\r\n", 2, b"{}"),
    _POST % (b"/v1/embeddings", _OFFER, len(_BODY), _BODY),
    b"POST /embed HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS,
    b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /health/readiness HTTP/1.1\r\n\r\n",
    b"HEAD /infinity/models HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * 600,
    _POST % (b"/v1/embeddings", b"", 9999, _BODY),
]
SEEDS = [bytes([piece]) + request + _REQUESTS[0] for piece in (0, 1, 7) for request in _REQUESTS]


def check(data: bytes) -> None:
    if not data:
        return
    direct, ordinary = (callers.answers(data[1:], data[0]) for callers in (_direct, _ordinary))
    _check_answers(direct)
    _check_answers(ordinary)
    if not _BROKEN.search(ordinary):
        assert _plain(direct) == _plain(ordinary), (direct, ordinary)


def _check_answers(written: bytes) -> None:
    at = 0
    while at < len(written):
        head = _HEAD.match(written, at)
        assert head, written[at : at + 300]
        status, fields = int(head[1]), dict(line.split(b": ", 1) for line in head[2].splitlines())
        assert status in STATUSES, written[at : at + 500]
        at = head.end()
        if status != 100:
            assert fields[b"content-type"] in _TYPES, fields
            assert fields[b"x-request-id"]
            if at < len(written) and not written.startswith(b"HTTP/1.1 ", at):  # else it is for HEAD
                at += int(fields[b"content-length"])


_DIFFERS: list[tuple[bytes, bytes]] = [
    (rb"dur=\d+\.\d{3}", b"dur=-"),
    (rb'"created":\d+', b'"created":-'),
    (rb"\b[0-9a-f]{24}\b", b"generated"),
]


def _plain(written: bytes) -> bytes:
    for pattern, instead in _DIFFERS:
        written = re.sub(pattern, instead, written)
    return written

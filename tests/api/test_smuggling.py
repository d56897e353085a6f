"""Requests that two servers in a row could read in two ways, sent to the gateway alone and through ingresses.

Whoever gets a second request past an ingress inside another is answered as somebody else.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio

from benchmarks import peers
from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pools_of
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

_SILENT_S = 0.25
HIDDEN = "smuggled"
SECRET = b'{"model": "bert", "input": "' + HIDDEN.encode() + b'"}'
INNER = b"POST /v1/embeddings HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(SECRET) + SECRET
"""What must never be a request."""


def post(*fields: bytes, body: bytes, line: bytes = b"POST /v1/embeddings HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: gateway", *fields, b"", b"")) + body


def lengths(value: bytes, *more: bytes) -> bytes:
    return post(b"Content-Length: " + value, *more, body=INNER)


CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
WHOLE = b"Content-Length: %d" % len(END + INNER)

SHAPES = {
    "CL.TE": post(WHOLE, CHUNKED, body=END + INNER),
    "TE.CL": post(CHUNKED, b"Content-Length: 5", body=END + INNER),
    "TE.CL, the inner in a chunk": post(
        CHUNKED, b"Content-Length: 4", body=b"%x\r\n%b\r\n" % (len(INNER), INNER) + END
    ),
    **{
        f"TE.TE, {name}": post(WHOLE, field, body=END + INNER)
        for name, field in {
            "a misspelling": b"Transfer-Encoding: xchunked",
            "identity": b"Transfer-Encoding: identity",
            "identity and chunked": b"Transfer-Encoding: identity, chunked",
            "chunked and identity": b"Transfer-Encoding: chunked, identity",
            "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            "twice, the good last": b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            "a space before the colon": b"Transfer-Encoding : chunked",
            "a tab before the colon": b"Transfer-Encoding\t: chunked",
            "a tab behind the colon": b"Transfer-Encoding:\tchunked",
            "a vertical tab": b"Transfer-Encoding: \x0bchunked",
            "a form feed": b"Transfer-Encoding: chunked\x0c",
            "quotes": b'Transfer-Encoding: "chunked"',
            "a semicolon": b"Transfer-Encoding: chunked; a=b",
            "a comma": b"Transfer-Encoding: ,chunked",
            "a line feed before it": b"X: y\nTransfer-Encoding: chunked",
            "a carriage return before it": b"X: y\rTransfer-Encoding: chunked",
            "folded": b"Transfer-Encoding:\r\n chunked",
            "folded under another": b"X: y\r\n Transfer-Encoding: chunked",
            "a space at the beginning": b" Transfer-Encoding: chunked",
            "an underscore": b"Transfer_Encoding: chunked",
            "a null in the name": b"Transfer-Encoding\x00: chunked",
            "a null in the value": b"Transfer-Encoding: chunked\x00",
            "capitals": b"TRANSFER-ENCODING: CHUNKED",
            "not ASCII": b"Transfer-Encoding: \xc3\x97chunked",
            "empty": b"Transfer-Encoding:",
        }.items()
    },
    "two lengths, the small first": lengths(b"0", b"Content-Length: %d" % len(INNER)),
    "two lengths, the small last": lengths(b"%d" % len(INNER), b"Content-Length: 0"),
    "a list of lengths": lengths(b"0, %d" % len(INNER)),
    "a length with a plus": lengths(b"+0"),
    "a length with a minus": lengths(b"-0"),
    "a length in hexadecimal": lengths(b"0x0"),
    "a length with an underscore": lengths(b"0_0"),
    "a length with a fraction": lengths(b"0.0"),
    "a length with an exponent": lengths(b"0e5"),
    "a length in quotes": lengths(b'"0"'),
    "a length with a space in it": lengths(b"0 0"),
    "a length with a null": lengths(b"0\x00"),
    "a length past 64 bits": lengths(b"18446744073709551616"),
    "no length": lengths(b""),
    "a space before the colon of a length": post(b"Content-Length : 0", WHOLE, body=END + INNER),
    "a folded length": post(b"Content-Length:\r\n 0", b"Content-Length: 5", body=END + INNER),
    **{
        f"chunks, {name}": post(CHUNKED, body=body + INNER)
        for name, body in {
            "a plus": b"+0\r\n\r\n",
            "a minus": b"-0\r\n\r\n",
            "0x": b"0x0\r\n\r\n",
            "an underscore": b"0_0\r\n\r\n",
            "past 64 bits": b"10000000000000000\r\n",
            "past 32 bits": b"100000000\r\n\r\n",
            "a space before the size": b" 0\r\n\r\n",
            "no size": b"\r\n\r\n",
            "a size that is too small": b"1\r\nabc\r\n" + END,
            "a size that is too large": b"5\r\nab\r\n" + END,
            "bare line feeds": b"0\n\n",
            "a bare carriage return": b"0\r\r\n",
            "a line feed within an extension": b"1;a\n2\r\n{\r\n" + END,
            "a carriage return within an extension": b"1;a\r2\r\n{\r\n" + END,
            "a null within an extension": b"1;\x00\r\n{\r\n" + END,
            "no line end behind the data": b"2\r\n{}" + END,
        }.items()
    },
    "bare line feeds": post(b"Content-Length: 0", body=INNER).replace(b"\r\n", b"\n", 4),
    "a bare carriage return": post(b"X: y\rContent-Length: 0", WHOLE, body=END + INNER),
    "a null in a name": post(b"X\x00: y", WHOLE, body=END + INNER),
    "a null in a value": post(b"X: y\x00", WHOLE, body=END + INNER),
    "a header without a colon": post(b"X", WHOLE, body=END + INNER),
    "a header without a name": post(b": y", WHOLE, body=END + INNER),
    "two hosts": post(b"Host: elsewhere", WHOLE, body=END + INNER),
    "another host in the line": post(
        WHOLE, body=END + INNER, line=b"POST http://elsewhere/v1/embeddings HTTP/1.1"
    ),
    "a scheme of another kind": post(
        WHOLE, body=END + INNER, line=b"POST file:///v1/embeddings HTTP/1.1"
    ),
    "a space in the path": post(WHOLE, body=END + INNER, line=b"POST /v1/embeddings x HTTP/1.1"),
    "a tab in the line": post(WHOLE, body=END + INNER, line=b"POST\t/v1/embeddings\tHTTP/1.1"),
    "HTTP/0.9": b"POST /v1/embeddings\r\n" + INNER,
    "HTTP/0.9 said": post(WHOLE, body=END + INNER, line=b"POST /v1/embeddings HTTP/0.9"),
    "HTTP/1.0 with chunks": post(CHUNKED, body=END + INNER, line=b"POST /v1/embeddings HTTP/1.0"),
    "HTTP/1.10": post(WHOLE, body=END + INNER, line=b"POST /v1/embeddings HTTP/1.10"),
    "HTTP/2.0": post(WHOLE, body=END + INNER, line=b"POST /v1/embeddings HTTP/2.0"),
    "an upgrade": post(b"Connection: Upgrade", b"Upgrade: h2c", WHOLE, body=END + INNER),
    "a GET with a body": post(b"Content-Length: %d" % len(INNER), body=INNER, line=b"GET /health HTTP/1.1"),
    "a HEAD with a body": post(b"Content-Length: %d" % len(INNER), body=INNER, line=b"HEAD /health HTTP/1.1"),
    "a length hidden by Connection": post(b"Connection: Content-Length", WHOLE, body=END + INNER),
    "a body in a body": post(b"Content-Length: %d" % len(INNER), body=INNER),
}  # fmt: skip

SEEN_AS_TWO = frozenset({"chunks, a null within an extension", "bare line feeds", "a length past 64 bits"})
"""What nginx or HAProxy reads as one request and then another, each of which it passes on as such."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    limits = LimitsSettings(body_bytes_max=100_000)
    settings = config(*pools_of(shared_fake), limits=limits, allow_anonymous=True)  # an ingress names others
    async with GatewayInProcess(settings) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["alone", "nginx", "haproxy"])
async def port(request: pytest.FixtureRequest, gateway: GatewayInProcess) -> AsyncIterator[int]:
    """Of the gateway, or of an ingress in front of it that keeps connections to it."""
    if request.param == "alone":
        yield gateway.port
        return
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "PEERS", Path(sys.prefix))
        async with getattr(peers, request.param)([gateway.url], Path(folder)) as (url, _):
            yield int(url.rpartition(":")[2])


async def answers_to(port: int, whole: bytes) -> bytes:
    """All that comes back, until the connection ends or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        writer.write(whole)
        while True:
            async with asyncio.timeout(_SILENT_S):
                if not (piece := await reader.read(65536)):
                    return got
                got += piece
    except (TimeoutError, ConnectionError):
        return got
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """But for leave to go on."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)]


@pytest.mark.proves(
    "a request hidden in another, in all usual spellings, directly and behind nginx and HAProxy",
    caller="at most one answer; the hidden one is never served",
    kind="attack",
)
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_hidden_request_is_never_answered(
    gateway: GatewayInProcess, port: int, fake: FakeInfinity, shape: str
) -> None:
    """Neither to who sent it, nor to the next whose request goes over the same connection to the gateway."""
    answer = await answers_to(port, SHAPES[shape])
    async with Caller(f"http://127.0.0.1:{port}") as neighbour:
        after = [await neighbour.embed(f"a neighbour's {i}") for i in range(3)]

    is_known = port != gateway.port and shape in SEEN_AS_TWO and len(statuses(answer)) == 2
    assert is_known or len(statuses(answer)) <= 1, answer
    assert is_known or [HIDDEN] not in fake.batches
    assert [reply.status for reply in after] == [200] * 3
    assert [batch for batch in fake.batches if batch[0].startswith("a neighbour")] == [
        [f"a neighbour's {i}"] for i in range(3)
    ]


async def test_what_is_asked_in_the_open_is_answered(port: int, fake: FakeInfinity) -> None:
    """Two requests one after the other are two: otherwise the test above could not fail."""
    first = post(b"Content-Length: 2", body=b"{}")

    answer = await answers_to(port, first + INNER)

    assert statuses(answer) == [400, 200]
    assert [HIDDEN] in fake.batches

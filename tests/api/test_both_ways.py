"""Whatever the shape of a request, the direct way answers as uvicorn's own does, to the byte."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.core.settings import LimitsSettings, Secret
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pools_of
from tests.api.ways import by_asgi, counting_asgi, through
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

MOST = 20_000
KEY = b"Authorization: Bearer sk-key"
GOOD = b'{"model": "bert", "input": "one"}'
END = b"Connection: close"
OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(shared_fake: FakeInfinity) -> AsyncIterator[tuple[GatewayInProcess, GatewayInProcess]]:
    """One with the direct way, and one without."""
    settings = config(
        *pools_of(shared_fake), master_key=Secret("sk-key"), limits=LimitsSettings(body_bytes_max=MOST)
    )
    async with GatewayInProcess(settings) as direct:
        with through(by_asgi):
            ordinary = GatewayInProcess(settings)
            async with ordinary:
                yield direct, ordinary


def request(
    *fields: bytes, body: bytes = GOOD, line: bytes = b"POST /v1/embeddings HTTP/1.1", length: bool = True
) -> bytes:
    framing = (b"Content-Length: %d" % len(body),) if length else ()
    return b"\r\n".join((line, b"Host: localhost", KEY, *framing, *fields, b"", b"")) + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def plain(answer: bytes) -> bytes:
    """Without what differs between two answers to one request."""
    for pattern, instead in (
        (rb"date: [^\r]+", b"date: -"),
        (rb"dur=\d+\.\d{3}", b"dur=-"),
        (rb'"created":\d+', b'"created":-'),
        (rb"\b[0-9a-f]{24}\b", b"generated"),
    ):
        answer = re.sub(pattern, instead, answer)
    return answer


RERANK = b'{"model": "cross", "query": "q", "documents": ["a", "b"], "return_documents": true}'
CHUNKED = b"Transfer-Encoding: chunked"
LIST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + KEY + b"\r\n\r\n"

SHAPES = {
    "a call": request(END),
    "another route": request(END, body=RERANK, line=b"POST /rerank HTTP/1.1"),
    "classes": request(
        END, body=b'{"model": "classifier", "input": ["a"]}', line=b"POST /classify HTTP/1.1"
    ),
    "an error of the caller": request(END, body=b"{"),
    "an unknown model": request(END, body=b'{"model": "none", "input": "one"}'),
    "an error that keeps the connection": request(body=b"{") + request(END),
    "no key": b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}" + request(END),
    "a wrong key": request(b"authorization: bearer sk-wrong", END),
    "a key twice, the last one good": request(b"AUTHORIZATION: bearer sk-wrong", KEY, END),
    "compressed": request(b"Content-Encoding: gzip", END),
    "names in capitals": request(b"X-REQUEST-ID: abc", END),
    "an id twice, the first one unsafe": request(b'x-request-id: a"b', b"x-request-id: abc", END),
    "an id twice, both safe": request(b"x-request-id: one", b"x-request-id: two", END),
    "an id with a tab in it": request(b"x-request-id: a\tb", END),
    "an id with a bell in it": request(b"x-request-id: a\x07b", END),
    "an id with a null in it": request(b"x-request-id: a\x00b", END),
    "an id with a line feed in it": request(b"x-request-id: a\nb: c", END),
    "a folded header": request(b"x-request-id: a\r\n b", END),
    "a space before the colon": request(b"x-request-id : a", END),
    "a header without a name": request(b": a", END),
    "ten thousand headers": request(*(b"x-%d: a" % i for i in range(10_000)), END),
    "a header of a million bytes": request(b"x-large: " + b"a" * 1_000_000, END),
    "no body": request(END, body=b""),
    "no length": request(END, body=b"", length=False),
    "the largest body": request(END, body=GOOD + b" " * (MOST - len(GOOD))),
    "too large": request(END, body=GOOD + b" " * MOST),
    "too large, and then a call": request(body=GOOD + b" " * MOST) + request(END),
    "too large in chunks": request(CHUNKED, END, body=chunked(GOOD, b" " * MOST), length=False),
    "too large in chunks, and then a call": request(
        CHUNKED, body=chunked(GOOD, b" " * MOST), length=False
    ) + request(END),
    "chunks": request(CHUNKED, END, body=chunked(GOOD[:7], GOOD[7:]), length=False),
    "chunks with extensions": request(
        CHUNKED, END, body=b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(GOOD), GOOD), length=False
    ),
    "chunks with a trailer": request(
        CHUNKED, END, body=chunked(GOOD, end=b"0\r\nx-request-id: late\r\n\r\n"), length=False
    ),
    "chunks of no number": request(CHUNKED, END, body=b"zz\r\n", length=False),
    "chunks of a negative number": request(CHUNKED, END, body=b"-1\r\n", length=False),
    "chunks that are longer than said": request(CHUNKED, END, body=b"1\r\nabc\r\n0\r\n\r\n", length=False),
    "length and chunks": request(CHUNKED, END, body=chunked(GOOD)),
    "chunks and length": request(b"Content-Length: 3", body=chunked(GOOD), length=False)[:-1]
    + request(CHUNKED, b"Content-Length: 3", END, body=chunked(GOOD), length=False),
    "two lengths": request(b"Content-Length: 3", END),
    "two equal lengths": request(b"Content-Length: %d" % len(GOOD), END),
    "a list of lengths": request(b"Content-Length: 3, 3", END, length=False),
    "a negative length": request(b"Content-Length: -1", END, length=False),
    "a length with a plus": request(b"Content-Length: +33", END, length=False),
    "a length past all numbers": request(b"Content-Length: " + b"9" * 40, END, length=False),
    "a terabyte": request(b"Content-Length: 1000000000000", length=False, body=b""),
    "chunked twice": request(b"Transfer-Encoding: chunked, chunked", END, body=chunked(GOOD), length=False),
    "chunked and then something": request(
        b"Transfer-Encoding: chunked, identity", END, body=chunked(GOOD), length=False
    ),
    "chunked, misspelt": request(
        b"Transfer-Encoding: xchunked", END, body=chunked(GOOD), length=False
    ),
    "chunked under a tab": request(b"Transfer-Encoding:\tchunked", END, body=chunked(GOOD), length=False),
    "bare line feeds": request(END).replace(b"\r\n", b"\n"),
    "HTTP/1.0": request(line=b"POST /v1/embeddings HTTP/1.0"),
    "HTTP/1.0 to be kept": request(b"Connection: keep-alive", line=b"POST /v1/embeddings HTTP/1.0"),
    "HTTP/2": request(END, line=b"POST /v1/embeddings HTTP/2.0"),
    "no version": b"POST /v1/embeddings\r\n\r\n",
    "GET": request(END, line=b"GET /v1/embeddings HTTP/1.1"),
    "GET without a body": request(END, line=b"GET /v1/embeddings HTTP/1.1", body=b"", length=False),
    "HEAD": request(END, line=b"HEAD /v1/embeddings HTTP/1.1", body=b"", length=False),
    "OPTIONS": request(END, line=b"OPTIONS /rerank HTTP/1.1", body=b"", length=False),
    "CONNECT": request(END, line=b"CONNECT gateway:80 HTTP/1.1", body=b"", length=False),
    "a method in small letters": request(END, line=b"post /v1/embeddings HTTP/1.1"),
    "a query": request(END, line=b"POST /v1/embeddings?a=b HTTP/1.1"),
    "a whole address": request(END, line=b"POST http://gateway/v1/embeddings HTTP/1.1"),
    "an escaped path": request(END, line=b"POST /v1%2Fembeddings HTTP/1.1"),
    "an escaped letter": request(END, line=b"POST /v1/%65mbeddings HTTP/1.1"),
    "two slashes": request(END, line=b"POST //v1/embeddings HTTP/1.1"),
    "a path with dots": request(END, line=b"POST /v1/../v1/embeddings HTTP/1.1"),
    "leave is asked for": request(b"Expect: 100-continue", END),
    "something else is expected": request(b"Expect: a miracle", END),
    "HTTP/2 is offered": request(*OFFER) + request(END),
    "HTTP/2 is offered in capitals": request(b"CONNECTION: UPGRADE", b"UPGRADE: H2C") + request(END),
    "HTTP/2 is offered with chunks": request(
        *OFFER, CHUNKED, body=chunked(GOOD), length=False
    ) + request(END),
    "HTTP/2 is offered to a list": LIST[:-2] + b"\r\n".join((*OFFER, b"", b"")) + request(END),
    "a WebSocket is asked for": request(b"Connection: Upgrade", b"Upgrade: websocket") + request(END),
    "a hundred offers": request(*OFFER) * 100 + request(END),
    "three calls": request() * 2 + request(END),
    "calls among others": request() + LIST + request(body=RERANK, line=b"POST /rerank HTTP/1.1") + LIST
    + request(END),
    "a list, then a call": LIST + request(END),
    "a refusal, then calls": request(b"Content-Encoding: br") + request() + request(END),
    "calls behind the last": request(END) + request() + LIST,
    "empty lines between": request() + b"\r\n\r\n" + request(END),
    "garbage behind": request(END) + b"\x00\x01 nonsense\r\n\r\n",
    "garbage at once": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
async def test_both_ways_give_the_same_answer(
    gateways: tuple[GatewayInProcess, GatewayInProcess], shape: str
) -> None:
    """Bytes as they are on the wire, until the connection ends."""
    direct, ordinary = [plain(await raw_exchange(each.port, SHAPES[shape])) for each in gateways]

    assert direct == ordinary
    assert direct.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "shape",
    ["length and chunks", "chunks and length", "two lengths", "chunked twice", "a negative length",
     "chunked, misspelt", "a space before the colon", "an id with a null in it"],
)  # fmt: skip
async def test_what_could_be_read_in_two_ways_is_refused(
    gateways: tuple[GatewayInProcess, GatewayInProcess], fake: FakeInfinity, shape: str
) -> None:
    """A proxy in front might see another request in it. The connection ends too."""
    answer = await raw_exchange(gateways[0].port, SHAPES[shape])

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("shape", ["too large, and then a call", "too large in chunks, and then a call"])
async def test_what_follows_a_last_answer_is_not_done(
    gateways: tuple[GatewayInProcess, GatewayInProcess], fake: FakeInfinity, shape: str
) -> None:
    """Nobody would get its answer, so it is no request either."""
    async with Caller(gateways[0].url) as caller:
        before = (await caller.samples()).total("requests_total")
        answer = await raw_exchange(gateways[0].port, SHAPES[shape])
        await raw_exchange(gateways[0].port, request(END, body=GOOD.replace(b"one", b"another")))
        after = (await caller.samples()).total("requests_total")

    assert answer.count(b"HTTP/1.1 ") == 1
    assert fake.batches == [["another"]]
    assert after == before + 2


async def test_a_trailer_is_no_header(gateways: tuple[GatewayInProcess, GatewayInProcess]) -> None:
    """It comes when the head has been judged."""
    whole = request(CHUNKED, END, body=chunked(GOOD, end=b"0\r\n" + KEY + b"\r\n\r\n"), length=False)
    for gateway in gateways:
        answer = await raw_exchange(gateway.port, whole.replace(KEY, b"x: y", 1))

        assert answer.startswith(b"HTTP/1.1 401 ")


USUAL = ["a call", "another route", "classes", "an error of the caller", "no key", "compressed", "chunks",
         "names in capitals", "too large", "an unknown model"]  # fmt: skip
UNUSUAL = ["HTTP/1.0", "leave is asked for", "a query", "an escaped path"]


@pytest.mark.parametrize("shape", [*USUAL, *UNUSUAL])
async def test_what_is_usual_goes_the_direct_way(
    gateways: tuple[GatewayInProcess, GatewayInProcess], shape: str
) -> None:
    """Otherwise the tests above would compare a way with itself."""
    with counting_asgi() as direct:
        await raw_exchange(gateways[0].port, SHAPES[shape])
    with counting_asgi() as ordinary:
        await raw_exchange(gateways[1].port, SHAPES[shape])

    assert bool(direct) is (shape in UNUSUAL)
    assert ordinary


@pytest.mark.parametrize("way", [0, 1], ids=["direct", "ordinary"])
@pytest.mark.parametrize(
    "whole",
    [
        request(b"x-request-id: abc"),
        request(CHUNKED, body=chunked(GOOD[:9], GOOD[9:]), length=False),
        request(b"Connection: Upgrade", b"Upgrade: h2c"),
    ],
    ids=["a length", "chunks", "an offer"],
)
async def test_a_call_may_be_cut_anywhere(
    gateways: tuple[GatewayInProcess, GatewayInProcess], way: int, whole: bytes
) -> None:
    """On one connection, once at each of its bytes; and then in bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateways[way].port)

    async def answer() -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        return plain(head + await reader.readexactly(int(length[1])))

    async with asyncio.timeout(60):
        writer.write(whole)
        wanted = await answer()
        for cut in range(1, len(whole)):
            for part in (whole[:cut], whole[cut:]):
                writer.write(part)
                await asyncio.sleep(0.0005)
            assert await answer() == wanted, cut
        for byte in whole:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.0005)
        assert await answer() == wanted
    writer.close()

    assert wanted.startswith(b"HTTP/1.1 200 ")

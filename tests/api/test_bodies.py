"""Bodies that are too large, compressed, in chunks, or never whole."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pool
from tests.api.neighbours import refused
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

MOST = 20_000
GOOD = b'{"model": "bert", "input": "one"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One that takes bodies of 20,000 bytes."""
    settings = config(
        pool("bert", shared_fake), pool("cross", shared_fake), limits=LimitsSettings(body_bytes_max=MOST)
    )
    async with GatewayInProcess(settings) as gateway:
        yield gateway


def head(length: int | None, *lines: bytes) -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join([b"POST /v1/embeddings HTTP/1.1", b"Host: localhost", framing, *lines, b"", b""])


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split(b" ")[1])


def padded(size: int) -> bytes:
    return GOOD + b" " * (size - len(GOOD))


async def test_the_largest_body_is_taken(caller: Caller, fake: FakeInfinity) -> None:
    """To the byte."""
    reply = await caller.post("/v1/embeddings", padded(MOST))

    assert reply.vectors == [vector_of("one").tolist()]


async def test_a_larger_body_is_refused(caller: Caller, fake: FakeInfinity) -> None:
    """With the limit, and how much came."""
    reply = await refused(caller, fake, "/v1/embeddings", padded(MOST + 1))

    assert reply.error(413) == f"the body has {MOST + 1} bytes; at most {MOST} are taken"
    assert reply.body["error"]["code"] == "body_too_large"


async def test_a_body_said_to_be_huge_is_refused_before_it_comes(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """A caller who announces a terabyte is told at once, and the connection ends."""
    answer = await raw_exchange(gateway.port, head(10**12))

    assert status_of(answer) == 413
    assert b"connection: close" in answer.lower()
    assert fake.asked == []


async def test_a_caller_who_waits_for_leave_is_refused_before_sending(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """curl asks with `Expect: 100-continue` before large bodies, and goes without an answer of 100."""
    refusal = await raw_exchange(gateway.port, head(MOST + 1, b"Expect: 100-continue"))
    leave = await raw_exchange(
        gateway.port, head(len(GOOD), b"Expect: 100-continue", b"Connection: close"), GOOD
    )

    assert status_of(refusal) == 413
    assert leave.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_a_body_in_chunks_is_taken(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """However it is cut, across characters and names too."""
    pieces = [chunk(bytes([byte])) for byte in GOOD]

    answer = await raw_exchange(gateway.port, head(None, b"Connection: close"), *pieces, b"0\r\n\r\n")

    assert status_of(answer) == 200
    assert fake.batches == [["one"]]


@pytest.mark.parametrize("size", [MOST + 1, 3 * MOST])
async def test_chunks_that_come_at_once_are_counted(
    gateway: GatewayInProcess, fake: FakeInfinity, size: int
) -> None:
    """A body without a length has the same limit, also when all of it is there from the beginning."""
    whole = head(None, b"Connection: close") + chunk(padded(size)) + b"0\r\n\r\n"

    answer = await raw_exchange(gateway.port, whole)

    assert status_of(answer) == 413
    assert fake.asked == []


async def test_chunks_without_end_are_refused_at_the_limit(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """The answer comes while the caller is still sending, and what came is not kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head(None))
    answer = asyncio.create_task(reader.read())
    sent = 0
    async with asyncio.timeout(20):
        while not answer.done() and sent < 1000 * MOST:
            writer.write(chunk(b" " * 1000))
            await writer.drain()
            sent += 1000
            await asyncio.sleep(0)
    writer.close()

    assert status_of(await answer) == 413
    assert sent < 1000 * MOST
    assert fake.asked == []


async def test_the_refusal_reaches_a_caller_who_goes_on_sending(caller: Caller, fake: FakeInfinity) -> None:
    """A connection that is reset under a client shows it a broken pipe instead of the reason."""
    reply = await caller.post("/v1/embeddings", padded(400 * MOST))

    assert f"at most {MOST} are taken" in reply.error(413)


@pytest.mark.proves(
    "a compressed body, which may be small and become huge",
    caller="400: bodies are taken as they are",
    kind="attack",
)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-unknown", "gzip, identity"])
async def test_a_compressed_body_is_refused_in_words(caller: Caller, fake: FakeInfinity, coding: str) -> None:
    """It would otherwise be broken JSON, or a bomb."""
    reply = await refused(caller, fake, "/v1/embeddings", gzip.compress(GOOD), Content_Encoding=coding)

    assert "compressed bodies are not taken" in reply.error(400)


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_a_body_said_to_be_as_it_is_is_taken(caller: Caller, fake: FakeInfinity, coding: str) -> None:
    """Codings are compared without regard to case."""
    reply = await caller.post("/v1/embeddings", GOOD, Content_Encoding=coding)

    assert reply.status == 200


async def test_a_connection_serves_calls_after_a_refusal(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """An error in one call does not cost the caller its connection, nor its place in the stream."""
    bad = b"{'input': 'one'}"

    answer = await raw_exchange(
        gateway.port,
        head(len(bad)) + bad + head(len(bad), b"Content-Encoding: gzip") + bad,
        head(len(GOOD), b"Connection: close") + GOOD,
    )

    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [400, 400, 200]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "after its head"])
async def test_the_body_of_a_client_that_offers_http2_is_read(
    gateway: GatewayInProcess, fake: FakeInfinity, at_once: bool
) -> None:
    """Java's HttpClient offers it with its first call to every plain address, body and all."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
    first = head(len(GOOD), *offer)
    second = head(len(GOOD), b"Connection: close") + GOOD

    parts = [first + GOOD + second] if at_once else [first, GOOD, second]
    answer = await raw_exchange(gateway.port, *parts)

    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200]


async def test_a_body_that_never_comes_whole_is_no_call(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity
) -> None:
    """The caller hangs up in the middle: nothing is sent on, and it is counted as gone."""
    before = (await caller.samples()).total("requests_total", status=499)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head(len(GOOD)) + GOOD[:-1])
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    await caller.samples_when("requests_total", before + 1, status=499)

    assert fake.asked == []


@pytest.mark.parametrize("path", ["/rerank", "/classify"])
async def test_every_route_has_the_limit(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """It is a limit of bytes, whatever they would mean."""
    body = json.dumps({"input": "a" * MOST}).encode()

    assert (await refused(caller, fake, path, body)).status == 413

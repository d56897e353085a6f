"""Callers who send too much, too slowly, or never read: each is told or dropped, and nobody else notices."""

import asyncio
import json
import logging
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.api.protocol import Protocol
from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pools_of
from tests.api.waiting import until
from tests.api.ways import Recorder, by_asgi, through
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

HEAD_BYTES = 4096
SHORT_S = 0.3
LIMITS = LimitsSettings(
    header_bytes_max=HEAD_BYTES,
    headers_max=40,
    head_s_max=SHORT_S,
    body_grace_s=SHORT_S,
    unread_s_max=SHORT_S,
    body_bytes_max=400_000,
)
recorder = Recorder()
"""Those of the gateway."""

BODY = b'{"model": "bert", "input": "one"}'


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[Protocol, by_asgi], ids=["direct", "ordinary"]
)
async def gateway(request: Any, shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One with small limits and little patience, on either way from the parser to the endpoint."""

    recorder.way = request.param
    with through(recorder):
        async with GatewayInProcess(config(*pools_of(shared_fake), limits=LIMITS)) as gateway:
            yield gateway


def head(*fields: bytes, length: int | None = len(BODY)) -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"\r\n".join((b"POST /v1/embeddings HTTP/1.1", b"Host: localhost", framing, *fields, b"", b""))


def told(answer: bytes, status: int) -> str:
    """The code of the only answer, whose connection ends with it."""
    first, _, body = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in first
    assert b"x-request-id: " in first
    error = json.loads(body)["error"]
    assert error["message"]
    return str(error["code"])


async def until_end(reader: asyncio.StreamReader) -> bytes:
    """What comes before the connection ends, which is a reset for who sends as it is closed."""
    came = b""
    with suppress(ConnectionResetError):
        while more := await reader.read(65536):
            came += more
    return came


async def dripped(port: int, *parts: bytes, every_s: float = 0.02) -> tuple[bytes, float]:
    """What is answered to a caller who sends these one after the other, for as long as it is let; and for
    how many seconds that was."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = loop.time()
    answer = asyncio.create_task(until_end(reader))
    try:
        for part in parts:
            if answer.done():
                break
            writer.write(part)
            await asyncio.sleep(every_s)
        async with asyncio.timeout(10):
            return await answer, loop.time() - began
    finally:
        answer.cancel()
        writer.close()


# Heads


@pytest.mark.proves("a head without end", caller="431, and its connection ends", kind="attack")
@pytest.mark.parametrize("field", [b"x-a: b\r\n", b"a" * 500], ids=["many fields", "one field"])
async def test_a_head_without_end_is_cut(gateway: GatewayInProcess, field: bytes) -> None:
    """As soon as more has come than is taken, not when it ends."""
    sent = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nx-long: ")
    answer = asyncio.create_task(reader.read())
    async with asyncio.timeout(10):
        while not answer.done():
            writer.write(field)
            sent += len(field)
            await asyncio.sleep(0.0005)
    writer.close()

    assert told(await answer, 431) == "large_head"
    assert sent < 20 * HEAD_BYTES


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([b"x-long: " + b"a" * HEAD_BYTES], "large_head"),
        ([b"x-long: " + b"a" * 100 * HEAD_BYTES], "large_head"),
        ([b"x-%d: a" % i for i in range(40)], "many_headers"),
        ([b"a: b"] * 5000, "large_head"),
    ],
    ids=["one", "one of many reads", "many", "very many"],
)
async def test_a_head_over_the_limits_is_refused(
    gateway: GatewayInProcess, fake: FakeInfinity, fields: list[bytes], code: str
) -> None:
    """With its body behind it, or cut anywhere: nothing of it is a call."""
    whole = head(*fields) + BODY
    half = len(whole) // 2
    for parts in ((whole,), (whole[:half], whole[half:])):
        assert told(await raw_exchange(gateway.port, *parts), 431) == code

    assert fake.asked == []


async def test_a_long_path_counts(gateway: GatewayInProcess) -> None:
    answer = await raw_exchange(gateway.port, head().replace(b"embeddings", b"a" * HEAD_BYTES))

    assert told(answer, 431) == "large_head"


async def test_a_head_just_within_the_limits_is_taken(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    fields = [b"x-%02d: a" % i for i in range(36)]
    fields += [b"x-long: " + b"a" * (HEAD_BYTES - 600), b"Connection: close"]

    answer = await raw_exchange(gateway.port, head(*fields) + BODY)

    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_many_small_heads_at_once_are_no_large_one(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """A read may hold many requests, and end within one."""
    call = head() + BODY
    whole = call * (4 * HEAD_BYTES // len(call)) + head(b"Connection: close") + BODY

    answer = await raw_exchange(gateway.port, whole[:-50], whole[-50:])

    assert answer.count(b"HTTP/1.1 200 ") == whole.count(b"POST")


@pytest.mark.proves("a head that comes in drips", caller="408 after 10 s; the connection ends", kind="attack")
async def test_a_slow_head_ends(gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity) -> None:
    """Bytes that come now and then do not put it off, on a connection that was used before, too."""
    drips = [b"GET /health HTTP/1.1\r\nx: ", *[b"a"] * 400]
    first, first_s = await dripped(gateway.port, *drips)
    later, later_s = await dripped(gateway.port, head() + BODY, *drips)

    assert told(first, 408) == "slow_head"
    assert [part[:3] for part in later.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]
    assert SHORT_S <= first_s < 5 * SHORT_S
    assert later_s < 5 * SHORT_S
    samples = await caller.samples()
    assert samples.value("rejected_total", reason="slow_head") >= 2


async def test_a_connection_that_sends_nothing_is_closed_without_a_word(gateway: GatewayInProcess) -> None:
    answer, took_s = await dripped(gateway.port)

    assert answer == b""
    assert SHORT_S <= took_s < 5 * SHORT_S


async def test_empty_lines_are_no_head(gateway: GatewayInProcess) -> None:
    """They may stand before a request, but not for ever."""
    answer, took_s = await dripped(gateway.port, *[b"\r\n"] * 400)

    assert answer == b""
    assert took_s < 5 * SHORT_S


async def test_an_idle_connection_is_kept_longer_than_a_head_may_take(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(2):
        writer.write(head() + BODY)
        assert (await reader.read(65536)).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(3 * SHORT_S)
    writer.close()


async def test_half_a_head_behind_a_long_call_does_not_end_it(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """Its time begins with the answer to the call."""
    fake.faults.append(Fault(delay=3 * SHORT_S))
    answer, _ = await dripped(gateway.port, head() + BODY + b"GET /hea")

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


# Bodies


@pytest.mark.proves("a body that comes in drips", caller="408 after 10 s; the connection ends", kind="attack")
@pytest.mark.parametrize("length", [100_000, None], ids=["a length", "chunks"])
async def test_a_slow_body_ends(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, length: int | None
) -> None:
    """Below the least rate, however regularly it comes; the call counts as one whose caller left."""
    before = (await caller.samples()).total("requests_total", status=499)
    drip = b"1" if length else b"1\r\n1\r\n"
    answer, took_s = await dripped(gateway.port, head(length=length), *[drip] * 400)

    assert told(answer, 408) == "slow_body"
    assert SHORT_S <= took_s < 5 * SHORT_S
    assert fake.asked == []
    await caller.samples_when("requests_total", before + 1, status=499)


async def test_a_body_at_a_fair_rate_is_taken(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """However long it takes altogether."""
    padding = b" " * 20_000
    pieces = [padding[i : i + 500] for i in range(0, len(padding), 500)]
    whole = head(b"Connection: close", length=len(BODY) + len(padding))

    answer, took_s = await dripped(gateway.port, whole, *pieces, BODY, every_s=0.03)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert took_s > 3 * SHORT_S


async def test_who_is_refused_before_the_body_need_not_send_it_for_ever(
    gateway: GatewayInProcess, fake: FakeInfinity
) -> None:
    """The answer is there already, so the connection ends without another."""
    answer, took_s = await dripped(
        gateway.port, head(b"Content-Encoding: gzip", length=100_000), *[b"1"] * 400
    )

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"400"]
    assert took_s < 5 * SHORT_S


@pytest.mark.parametrize(
    "piece",
    [b"x-%06d: trailing\r\n", b"1;%06d" + b"e" * 200 + b"\r\n \r\n"],
    ids=["trailers", "extensions"],
)
async def test_what_stands_around_a_body_is_bounded(
    gateway: GatewayInProcess, fake: FakeInfinity, piece: bytes
) -> None:
    """It is no part of the body, which has a limit of its own, and is not kept."""
    begin = head(length=None) + (b"1\r\n \r\n0\r\n" if piece.startswith(b"x") else b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(begin)
    answer = asyncio.create_task(reader.read())
    sent = 0
    async with asyncio.timeout(20):
        while not answer.done() and sent < 100 * LIMITS.body_bytes_max:
            block = b"".join(piece % i for i in range(100))
            writer.write(block)
            sent += len(block)
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()

    assert told(await answer, 413) in ("large_framing", "body_too_large")
    assert sent < 10 * LIMITS.body_bytes_max
    assert fake.asked == []


@pytest.mark.proves(
    "a body larger than is taken, sent on without a look at the answer",
    caller="413, which is there when the caller looks",
    kind="attack",
)
@pytest.mark.parametrize("chunked", [False, True], ids=["a length", "chunks"])
async def test_who_sends_far_too_much_reads_why(gateway: GatewayInProcess, chunked: bool) -> None:
    """Closed under the caller's hands, the connection would be reset, and the answer lost with it."""
    loop = asyncio.get_running_loop()
    megabyte = b" " * 2**20
    piece = b"%x\r\n%b\r\n" % (len(megabyte), megabyte) if chunked else megabyte
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(sock, head(length=None if chunked else 64 * len(megabyte)))
        for _ in range(64):
            await loop.sock_sendall(sock, piece)
        answer = b""
        async with asyncio.timeout(10):
            while got := await loop.sock_recv(sock, 65536):
                answer += got

    assert told(answer, 413) == "body_too_large"


# Answers


@pytest.mark.proves("the answer is never read", caller="its connection is cut after 30 s", kind="attack")
@pytest.mark.parametrize("items", [1, 1000], ids=["a small answer", "a large answer"])
async def test_an_answer_that_is_never_read_is_dropped(
    gateway: GatewayInProcess,
    caller: Caller,
    fake: FakeInfinity,
    items: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the kernel does not take stays with us, but not for ever; others are answered meanwhile."""
    body = json.dumps({"model": "bert", "input": [f"text {i}" for i in range(items)]}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
        await until(lambda: any(is_of(each, sock) for each in recorder.open))
        [connection] = [each for each in recorder.open if is_of(each, sock)]
        takes_little = connection.transport.get_extra_info("socket")
        takes_little.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        # Small answers are not read by a caller who has sent for many of them.
        call = head(length=len(body)) + body
        calls = call * (1 if items > 1 else 2000)
        for begin in range(0, len(calls), 4000):
            try:
                sock.send(calls[begin : begin + 4000])
            except BlockingIOError:
                break
            stuck_after = loop.time()
            await asyncio.sleep(0.001)
            if is_stuck(connection):
                break
        await until(lambda: is_stuck(connection))
        assert (await caller.embed("another")).status == 200
        await until(lambda: connection not in recorder.open)
        assert SHORT_S <= loop.time() - stuck_after < 20 * SHORT_S
    samples = await caller.samples()

    assert samples.value("rejected_total", reason="unread") >= 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_answer_that_is_read_slowly_is_given(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """As long as it is taken at the least rate."""
    body = json.dumps({"model": "bert", "input": [f"text {i}" for i in range(2000)]}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(sock, head(b"Connection: close", length=len(body)) + body)
        began, got = loop.time(), b""
        while piece := await loop.sock_recv(sock, 40_000):
            got += piece
            await asyncio.sleep(0.02)

    assert got.startswith(b"HTTP/1.1 200 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["data"][-1]["index"] == 1999
    assert loop.time() - began > SHORT_S


def is_stuck(connection: Protocol) -> bool:
    return connection.transport.get_write_buffer_size() > 0


def is_of(connection: Any, sock: socket.socket) -> bool:
    return bool(connection.client == sock.getsockname())


# Many


@pytest.mark.proves("5,000 idle connections", caller="others are answered as before", kind="attack")
async def test_thousands_of_idle_connections_harm_nobody(shared_fake: FakeInfinity) -> None:
    """They cost some memory, and one look a second; calls beside them take no longer."""
    loop = asyncio.get_running_loop()
    async with GatewayInProcess(config(*pools_of(shared_fake))) as gateway, Caller(gateway.url) as caller:

        async def calls_s() -> float:
            began = loop.time()
            for i in range(200):
                assert (await caller.embed(f"text {i}")).status == 200
            return loop.time() - began

        async def idle() -> socket.socket:
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
            return sock

        await calls_s()
        alone_s = await calls_s()
        memory = resident_bytes()
        opened = [sock for _ in range(50) for sock in await asyncio.gather(*(idle() for _ in range(100)))]
        memory = resident_bytes() - memory
        beside_s = await calls_s()
        for each in opened:
            each.close()

    assert beside_s < 2 * alone_s + 0.1
    assert memory / len(opened) < 30_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_the_time_to_keep_connections_is_longer_than_that_of_ingresses() -> None:
    assert LimitsSettings().keep_alive_s > 60

"""The HTTP of our own client: what it sends, where an answer ends, and which connections it keeps."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.pool import SendError
from gateway.upstream import codec, wire
from gateway.upstream.infinity import InfinityUpstream
from gateway.upstream.target import Target
from tests.upstream.listening import listening, never
from tests.upstream.peer import BODY, GOOD, peer, until
from tests.upstream.requests import TIMEOUT_S, deployment, failure_of, texts

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%x\r\n%b\r\n0\r\n" % (
    10, BODY[:10], len(BODY) - 10, BODY[10:],
)  # fmt: skip
SIZED = b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


async def one(upstream: InfinityUpstream, url: str, text: str = "one") -> None:
    answer = await upstream.send(deployment(url), texts(text), TIMEOUT_S)
    assert answer == ([b'"AAAAAA=="'], 1)


# What is sent


async def test_a_request_to_the_byte(upstream: InfinityUpstream) -> None:
    """Nothing in it that no server needs."""
    async with peer() as served:
        await upstream.send(deployment(f"{served.url}/deep/v1", key="sk-1"), texts("one"), TIMEOUT_S)

    host = served.url.removeprefix("http://").encode()
    assert served.requests == [
        b"POST /deep/v1/embeddings HTTP/1.1\r\n"
        b"Host: " + host + b"\r\n"
        b"User-Agent: infinity-gateway\r\n"
        b"Accept-Encoding: identity\r\n"
        b"Content-Type: application/json\r\n"
        b"Authorization: Bearer sk-1\r\n"
        b"Content-Length: 59\r\n\r\n"
        b'{"model":"bert","input":["one"],"encoding_format":"base64"}'
    ]  # fmt: skip


@pytest.mark.parametrize("length", [1, 65_536, 4_000_000])
async def test_requests_of_every_size_follow_each_other(upstream: InfinityUpstream, length: int) -> None:
    """Small or large, the next one begins where it ended."""
    async with peer() as served:
        for _ in range(2):
            await one(upstream, served.url, "a" * length)

    assert [len(request) > length for request in served.requests] == [True, True]
    assert served.connections == 1


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://infinity/embeddings", "infinity"),
        ("http://Infinity:80/embeddings", "infinity"),
        ("https://infinity:443/embeddings", "infinity"),
        ("http://infinity:443/embeddings", "infinity:443"),
        ("https://infinity:7997/embeddings", "infinity:7997"),
        ("http://[FD00::1]:7997/embeddings", "[fd00::1]:7997"),
        ("http://[fe80::1%eth0]/embeddings", "[fe80::1]"),
        ("http://me:secret@infinity:7997/embeddings", "infinity:7997"),
    ],
)
def test_the_host_is_named_as_in_the_address(url: str, host: str) -> None:
    """With its port where that is not the scheme's own, without a user, and without our name of a link."""
    assert f"\r\nHost: {host}\r\n".encode() in Target(url, None).head


@pytest.mark.parametrize(
    ("key", "sent"),
    [(None, b"Basic bWU6c2VjcmV0IQ=="), ("sk-1", b"Bearer sk-1")],
    ids=["user", "user and key"],
)
async def test_a_user_in_the_address_is_one_unless_there_is_a_key(
    upstream: InfinityUpstream, key: str | None, sent: bytes
) -> None:
    """The configuration lets no user in; who makes settings otherwise gets basic authentication."""
    async with peer() as served:
        url = served.url.replace("://", "://me:secret%21@")
        await upstream.send(deployment(url, key=key), texts("one"), TIMEOUT_S)

    assert b"\r\nAuthorization: %b\r\n" % sent in served.requests[0]
    assert b"secret" not in served.requests[0]


@pytest.mark.parametrize("key", ["sk-1\r\nX-Injected: 1", "sk-1\n", "sk\0-1", "sk-\udc80-1"])
async def test_a_key_that_no_header_can_hold(upstream: InfinityUpstream, key: str) -> None:
    """It is refused before anything is sent; a line break would begin a header of its own."""
    async with listening(never) as url:
        server = deployment(url, key=key)
        sent = await failure_of(upstream, server)
        with pytest.raises(SendError) as asked:
            await upstream.models(server, TIMEOUT_S)

    for error in (sent, asked.value):
        assert error.failure is Failure.UNAUTHORIZED
        assert "api_key" in str(error)
        assert key not in str(error)
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "infinity:7997",
        "ftp://infinity",
        "http://",
        "http://infinity:x",
        "http://infinity:99999",
        "http://[fd00::1",
        "http://infinity/\r\nX-Injected: 1",
        "http://infinity\n",
        "http://infinity/a b",
        "http://infinity/é",
    ],
)
async def test_an_address_that_is_none(upstream: InfinityUpstream, url: str) -> None:
    """The words lead to the setting, and nothing is sent anywhere."""
    error = await failure_of(upstream, deployment(url))

    assert error.failure is Failure.BAD_ANSWER
    assert "api_base" in str(error)


def test_a_target_does_not_show_its_key() -> None:
    """Whatever prints it."""
    assert "sk-1" not in repr(Target("http://infinity", "sk-1"))


# Where an answer ends, and whether its connection is kept


@pytest.mark.parametrize("pieces_of", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n" + SIZED, True),
        (b"HTTP/1.1 200\r\nX-Empty:\r\n" + SIZED, True),
        (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n", True),
        (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"X-Trailer: 1\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD, True),
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + SIZED, True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + SIZED, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + CHUNKED + b"\r\n", False),
        (b"HTTP/1.0 200 OK\r\n" + SIZED, False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + SIZED, True),
    ],
)
async def test_an_answer_ends_where_it_says(
    upstream: InfinityUpstream, answer: bytes, kept: bool, pieces_of: int | None
) -> None:
    """The connection serves the next request, unless the server said that it will not."""
    async with peer(answer, pieces_of=pieces_of) as served:
        for _ in range(3):
            await one(upstream, served.url)

        assert served.used == ([0, 0, 0] if kept else [0, 1, 2])
        await until(lambda: served.open == int(kept))


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_may_end_with_its_connection(upstream: InfinityUpstream, version: bytes) -> None:
    """Neither length nor chunks: all that comes is body."""
    async with peer(b"HTTP/%b 200 OK\r\n\r\n%b" % (version, BODY), pieces_of=30, hangs_up=True) as served:
        for _ in range(2):
            await one(upstream, served.url)

    assert served.used == [0, 1]


@pytest.mark.parametrize("surplus", [b"?", GOOD, GOOD[:30], b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_more_than_an_answer(upstream: InfinityUpstream, surplus: bytes) -> None:
    """The answer is good; what follows must not become the next one's."""
    async with peer(GOOD + surplus, GOOD) as served:
        for _ in range(2):
            await one(upstream, served.url)

        assert served.used == [0, 1]
        await until(lambda: served.open == 1)


async def test_a_head_alone(upstream: InfinityUpstream) -> None:
    """It is HTTP, with an empty body, and that is no answer to a batch."""
    async with peer(b"HTTP/1.1 200 OK\r\n\r\n", hangs_up=True) as served:
        error = await failure_of(upstream, deployment(served.url))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "unreadable")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 000 Nothing\r\n" + SIZED,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + CHUNKED + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + SIZED,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=["upgrade", "status 0", "endless head", "endless hints", "two framings", "two lengths", "chunk"],
)
async def test_an_answer_that_breaks_the_rules(upstream: InfinityUpstream, answer: bytes) -> None:
    """It is told at once, although the server keeps the connection open."""
    async with peer(answer) as served:
        error = await failure_of(upstream, deployment(served.url))

        assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "http")
        await until(lambda: served.open == 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b" " * 2000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2000,
    ],
    ids=["said", "chunked", "without an end"],
)
async def test_an_answer_is_bounded(
    upstream: InfinityUpstream, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every framing: what a server sends must not fill our memory."""
    monkeypatch.setattr(codec, "answer_bytes_max", lambda *_: 1999)
    async with peer(answer) as served:
        error = await failure_of(upstream, deployment(served.url))

        assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "size")
        await until(lambda: served.open == 0)


async def test_an_answer_before_the_request_has_gone_out(upstream: InfinityUpstream) -> None:
    """As a proxy's 413. The rest of the request is not sent, and nothing else goes over that connection."""
    ended = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 18\r\n\r\n" + b'{"detail":"large"}')
        with contextlib.suppress(ConnectionError):
            await answered.wait()
            while await reader.read(65_536):
                pass
        ended.set()

    answered = asyncio.Event()
    async with listening(refuse) as url, asyncio.timeout(TIMEOUT_S):
        error = await failure_of(upstream, deployment(url), texts("a" * 16_000_000))
        answered.set()
        await ended.wait()

    assert error.failure is Failure.REJECTED
    assert str(error) == "large"


# Idle connections


async def closed(upstream: InfinityUpstream) -> None:
    await until(lambda: not upstream._wire._open)


async def test_a_connection_that_the_server_closes_is_dropped_at_once(upstream: InfinityUpstream) -> None:
    """Not only when it is used."""
    async with peer(hangs_up=True) as served:
        for _ in range(2):
            await one(upstream, served.url)
            await closed(upstream)

    assert served.used == [0, 1]


async def test_what_comes_unasked_ends_a_connection(upstream: InfinityUpstream) -> None:
    """It would be taken for the next answer."""
    unasked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        await unasked.wait()
        writer.write(GOOD)
        await reader.read()

    async with listening(talk) as url:
        await one(upstream, url)
        unasked.set()
        await closed(upstream)


async def test_an_idle_connection_is_closed_before_the_server_would(
    upstream: InfinityUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn does after 5 s; one that is used now and then stays."""
    assert wire._KEEP_ALIVE_S < 5
    monkeypatch.setattr(wire, "_KEEP_ALIVE_S", 0.2)
    async with peer() as served:
        await asyncio.gather(one(upstream, served.url), one(upstream, served.url))
        assert served.open == 2
        await until(lambda: served.open == 0)
        assert upstream._wire._sweeper is None

        await one(upstream, served.url)
        await until(lambda: served.open == 0)

    assert served.connections == 3


async def test_a_connection_that_is_too_old_is_not_used(
    upstream: InfinityUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the event loop was too busy to close it in time."""
    monkeypatch.setattr(wire, "_KEEP_ALIVE_S", 0.0)
    async with peer() as served:
        for _ in range(2):
            await one(upstream, served.url)

    assert served.used == [0, 1]


async def test_the_connection_used_last_is_used_first(upstream: InfinityUpstream) -> None:
    """So those that a burst has left over grow old and are closed."""
    async with peer() as served:
        await asyncio.gather(*(one(upstream, served.url) for _ in range(4)))
        for _ in range(4):
            await one(upstream, served.url)

    assert sorted(served.used[:4]) == [0, 1, 2, 3]
    assert len(set(served.used[4:])) == 1


async def test_servers_do_not_share_connections(upstream: InfinityUpstream) -> None:
    """Each port is a server of its own."""
    async with peer() as first, peer() as second:
        for served in (first, second, first, second):
            await one(upstream, served.url)

    assert (first.used, second.used) == ([0, 0], [0, 0])


# Getting a connection


def resolve(monkeypatch: pytest.MonkeyPatch, *places: Any) -> None:
    """Every name means these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **options: Any) -> Any:
        if options.get("flags") == socket.AI_NUMERICHOST:
            return real(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def place_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


async def test_a_host_of_several_addresses(
    upstream: InfinityUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses is passed over; the server hears the name that was meant."""
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        async with peer() as served:
            resolve(monkeypatch, refusing.getsockname(), place_of(served.url), refusing.getsockname())
            await one(upstream, "http://infinity:7997")

    assert b"\r\nHost: infinity:7997\r\n" in served.requests[0]


async def test_a_name_that_dns_cannot_have(upstream: InfinityUpstream) -> None:
    """A label is at most 63 letters."""
    error = await failure_of(upstream, deployment(f"http://{'a' * 64}.example:7997"))

    assert error.failure is Failure.REFUSED
    assert "does not resolve" in str(error)


@pytest.mark.parametrize("connect_s", [0.1, 5.0])
async def test_a_connection_that_does_not_come_in_time(
    upstream: InfinityUpstream, monkeypatch: pytest.MonkeyPatch, connect_s: float
) -> None:
    """A server that cannot be reached has not seen the batch; unless the batch had no more time itself."""
    monkeypatch.setattr(wire, "CONNECT_S", connect_s)
    ended = asyncio.Event()

    async def no_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with listening(no_handshake) as url, asyncio.timeout(TIMEOUT_S):
        timeout_s = 0.2
        error = await failure_of(upstream, deployment(url.replace("http:", "https:")), timeout_s=timeout_s)
        await ended.wait()

    if connect_s < timeout_s:
        assert error.failure is Failure.REFUSED
        assert "no connection within 0.1 s" in str(error)
    else:
        assert error.failure is Failure.TIMEOUT


# Ends


@pytest.mark.parametrize("scheme", ["http", "https"], ids=["waiting", "connecting"])
async def test_a_caller_who_goes_takes_the_connection_along(upstream: InfinityUpstream, scheme: str) -> None:
    """The server sees it end, and no later request gets it."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with listening(hear) as url, asyncio.timeout(TIMEOUT_S):
        call = asyncio.create_task(one(upstream, url.replace("http", scheme)))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await ended.wait()

    await closed(upstream)
    assert not any(upstream._wire._idle.values())


async def test_a_caller_who_goes_just_as_the_connection_is_made(
    upstream: InfinityUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds it then but the client, which must let go of it as well."""
    made = upstream._wire.on_open

    def leave(connection: Any) -> None:
        made(connection)
        call.cancel()

    monkeypatch.setattr(upstream._wire, "on_open", leave)
    async with peer() as served:
        call = asyncio.create_task(one(upstream, served.url))
        with pytest.raises(asyncio.CancelledError):
            await call
        await closed(upstream)
        await until(lambda: served.connections == 1 and served.open == 0)

    assert served.requests == []


async def test_a_caller_who_goes_when_the_answer_is_there_harms_nobody(upstream: InfinityUpstream) -> None:
    """By then the connection may be another's."""
    begun = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.read()

    async with listening(hear) as url, asyncio.timeout(TIMEOUT_S):
        call = asyncio.create_task(one(upstream, url))
        await begun.wait()
        [connection] = upstream._wire._open
        next_call = asyncio.create_task(one(upstream, url))
        # All in one turn of the event loop: the next call finds the connection before the first one wakes.
        connection.data_received(GOOD)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        connection.data_received(GOOD)
        await next_call
        assert upstream._wire._open == {connection}


async def test_the_end_of_the_gateway_ends_calls() -> None:
    """They fail as if the server had gone, and are not sent again."""
    begun = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.read()

    async with listening(hear) as url:
        async with InfinityUpstream() as upstream:
            call = asyncio.create_task(failure_of(upstream, deployment(url)))
            await begun.wait()
        error = await call

    assert error.failure is Failure.DISCONNECTED
    assert "closing" in str(error)
    await closed(upstream)


async def test_no_connection_is_kept_for_a_gateway_that_ended() -> None:
    """One that was just being made is closed, and its call fails."""
    async with peer() as served:
        async with InfinityUpstream() as upstream:
            call = asyncio.create_task(failure_of(upstream, deployment(served.url)))
            await asyncio.sleep(0)
        assert (await call).failure is Failure.DISCONNECTED
        await closed(upstream)

    assert served.requests == []

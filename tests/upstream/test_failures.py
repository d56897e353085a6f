"""Every way in which a server can fail leaves as the right `Failure`, with words that an operator can use."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.upstream.requests import (
    TIMEOUT_S,
    deployment,
    documents,
    failure_of,
    texts,
    to_classify,
)

SECRET = "sk-very-secret-7997"
GIB = 1024**3

# For a name that does not exist; made for this file with `openssl req -x509`.
SELF_SIGNED = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCAnrNfGi5rB52QYx
0HimfTc5+t9F2NlL/pwcvuEAWi2hRANCAAQfUVikjp3gnMIo5U+WdLGnzJXiqh7Z
gJjLgn3qz+FKjHf9ecOBvU7hihyuAKVMDbkx3hfmW82OQGHCIEe6yich
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBjjCCATOgAwIBAgIUFN1WTVGrib5HnJVacNyDNVWA1fwwCgYIKoZIzj0EAwIw
GzEZMBcGA1UEAwwQaW5maW5pdHkuaW52YWxpZDAgFw0yNjExMjIxMTExMThaGA8y
MTI2MTAyOTExMTExOFowGzEZMBcGA1UEAwwQaW5maW5pdHkuaW52YWxpZDBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABB9RWKSOneCcwijlT5Z0safMleKqHtmAmMuC
ferP4UqMd/15w4G9TuGKHK4ApUwNuTHeF+ZbzY5AYcIgR7rKJyGjUzBRMB0GA1Ud
DgQWBBSSYJkdDA2OdTiI5GItJmi9OhT5AjAfBgNVHSMEGDAWgBSSYJkdDA2OdTiI
5GItJmi9OhT5AjAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQDc
eIkXw0yteSClaEazhFmMkyz3xVphi9LM2u4j/7ASCQIhAJsCTi0Yn0A3IAiXHqpN
8B+QBsQxEeRC2wbTUhajLffY
-----END CERTIFICATE-----
"""


async def test_nothing_listens(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """A refused connection means that no server has seen the batch."""
    await fake_infinity.stop()

    error = await failure_of(upstream, deployment(fake_infinity))

    assert (error.failure, error.reason) == (Failure.REFUSED, "refused")


async def test_a_host_that_has_no_address(upstream: InfinityUpstream) -> None:
    """DNS is named as the reason, not a connection."""
    error = await failure_of(upstream, deployment("http://infinity-7.invalid:7997"))

    assert error.failure is Failure.REFUSED
    assert "does not resolve" in str(error)


async def test_https_to_a_plain_server(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """The words ask the question that leads to the mistake."""
    base = fake_infinity.url.replace("http:", "https:")

    error = await failure_of(upstream, deployment(base))

    assert error.failure is Failure.REFUSED
    assert "does the server speak https" in str(error)


async def test_http_to_a_server_of_tls(upstream: InfinityUpstream, tmp_path: Path) -> None:
    """The other way round what comes back, if anything, is not HTTP."""
    async with listening(never, ssl=tls(tmp_path)) as base:
        error = await failure_of(upstream, deployment(base))

    assert error.failure in (Failure.BAD_ANSWER, Failure.DISCONNECTED)


async def test_a_certificate_that_nobody_vouches_for(upstream: InfinityUpstream, tmp_path: Path) -> None:
    """Nothing is sent over TLS that cannot be verified, and the words name the certificate."""
    async with listening(never, ssl=tls(tmp_path)) as base:
        error = await failure_of(upstream, deployment(base.replace("http:", "https:")))

    assert error.failure is Failure.REFUSED
    assert "certificate" in str(error)


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(drip_s=0.05)], ids=["hangs", "drips"])
async def test_an_answer_that_does_not_come_in_time(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, fault: Fault
) -> None:
    """The time limit is for the whole answer: one byte now and then does not put it off."""
    fake_infinity.faults.append(fault)

    error = await failure_of(upstream, deployment(fake_infinity), timeout_s=0.2)

    assert error.failure is Failure.TIMEOUT
    assert "no answer within 0.2 s" in str(error)


async def test_a_server_that_accepts_and_is_silent(upstream: InfinityUpstream) -> None:
    """As a stopped process, whose kernel still takes connections."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(silent) as base:
        error = await failure_of(upstream, deployment(base), timeout_s=0.1)

    assert error.failure is Failure.TIMEOUT


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("when", ["before", "middle"])
async def test_a_connection_that_breaks(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, when: Any, reset: bool
) -> None:
    """On a new connection, before or within the answer: the server may be working on the batch."""
    fake_infinity.faults.append(Fault(drop=when, reset=reset))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert (error.failure, error.reason) == (Failure.DISCONNECTED, "disconnected")
    assert len(fake_infinity.batches) == 1


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, Failure.REJECTED),
        (413, Failure.REJECTED),
        (422, Failure.REJECTED),
        (401, Failure.UNAUTHORIZED),
        (403, Failure.UNAUTHORIZED),
        (404, Failure.SERVER_ERROR),
        (405, Failure.SERVER_ERROR),
        (408, Failure.SERVER_ERROR),
        (429, Failure.OVERLOADED),
        (500, Failure.SERVER_ERROR),
        (502, Failure.SERVER_ERROR),
        (503, Failure.SERVER_ERROR),
        (504, Failure.SERVER_ERROR),
        (599, Failure.SERVER_ERROR),
        (201, Failure.BAD_ANSWER),
        (204, Failure.BAD_ANSWER),
        (304, Failure.BAD_ANSWER),
    ],
)
async def test_a_status_other_than_200(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, status: int, failure: Failure
) -> None:
    """Each status says who must act."""
    fake_infinity.faults.append(Fault(status=status))

    assert (await failure_of(upstream, deployment(fake_infinity))).failure is failure


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, status: int
) -> None:
    """Neither texts nor key go where a server points to."""
    async with FakeInfinity() as elsewhere:
        location = f"{elsewhere.url}/embeddings"
        fake_infinity.faults.append(Fault(status=status, headers={"Location": location}))

        error = await failure_of(upstream, deployment(fake_infinity, key=SECRET))

    assert error.failure is Failure.BAD_ANSWER
    assert elsewhere.requests == []


async def test_a_model_that_the_server_does_not_have_is_not_the_callers_fault(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Infinity answers 400 to a name that the configuration has wrong."""
    error = await failure_of(upstream, deployment(fake_infinity, "nobody"))

    assert error.failure is Failure.SERVER_ERROR


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (faults.fewer, "count"),
        (faults.more, "count"),
        (faults.duplicate_index, "index"),
        (faults.wrong_index, "index"),
    ],
)
async def test_answers_are_counted(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, edit: Callable[[Any], None], reason: str
) -> None:
    """As many as items, each index once: else nobody can tell whose they are."""
    fake_infinity.faults.append(Fault(edit=edit))

    vectors = await failure_of(upstream, deployment(fake_infinity))
    scores = await failure_of(upstream, deployment(fake_infinity, "cross"), documents("q", "a", "b"))

    assert (vectors.failure, vectors.reason) == (Failure.BAD_ANSWER, reason)
    assert (scores.failure, scores.reason) == (Failure.BAD_ANSWER, reason)


@pytest.mark.parametrize("edit", [faults.fewer, faults.more])
async def test_classes_are_counted(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, edit: Callable[[Any], None]
) -> None:
    """They have no index, so the count is all that there is."""

    def edited(answer: Any) -> None:
        answer["data"] = answer["data"][:-1] if edit is faults.fewer else [*answer["data"], []]

    fake_infinity.faults.append(Fault(edit=edited))

    error = await failure_of(upstream, deployment(fake_infinity, "classifier"), to_classify("a", "b"))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "count")


@pytest.mark.parametrize("items", [("one",), ("one", "two")], ids=["alone", "beside a good one"])
@pytest.mark.parametrize("edit", [faults.shorter_vector, faults.broken_base64])
async def test_a_vector_that_cannot_be_one(
    upstream: InfinityUpstream,
    fake_infinity: FakeInfinity,
    edit: Callable[[Any], None],
    items: tuple[str, ...],
) -> None:
    """Vectors are handed on unread, so what is no base64 of whole numbers must be noticed here."""
    fake_infinity.faults.append(Fault(edit=edit))

    error = await failure_of(upstream, deployment(fake_infinity), texts(*items))

    assert error.failure is Failure.BAD_ANSWER


@pytest.mark.parametrize(
    "embedding",
    [b'""', b'"AAAA"', b'"AAA"', b'"AA=AAA=="', b'"AAAAAA===="', b"null", b"1", b"{}"],
)
async def test_what_stands_for_a_vector_and_is_none(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, embedding: bytes
) -> None:
    """Neither empty, nor of a size that no float32 has, nor of another type."""
    raw = b'{"data":[{"index":0,"embedding":%b}],"usage":{"total_tokens":1}}' % embedding
    fake_infinity.faults.append(Fault(raw=raw))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one"))

    assert error.failure is Failure.BAD_ANSWER


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"<html>nginx</html>",
        b'{"data":[]}',
        b'{"data":null,"usage":{"total_tokens":1}}',
        b'{"data":[{"index":"0","embedding":"AAAAAA=="}],"usage":{"total_tokens":1}}',
        b'{"data":[{"index":0,"embedding":"AAAAAA=="}],"usage":{"total_tokens":-1}}',
        b'{"error":{"message":"no"}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:40]),
)
async def test_an_answer_that_is_not_what_was_asked_for(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, raw: bytes
) -> None:
    """Whatever comes with 200, it is either an answer to the batch or the server's fault."""
    fake_infinity.faults.append(Fault(raw=raw))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one"))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "unreadable")


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=lambda wire: repr(wire[:40]),
)
async def test_what_answers_is_not_http(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, wire: bytes
) -> None:
    """Something else listens on the port, or something in between is broken."""
    fake_infinity.faults.append(Fault(wire=wire))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "http")


async def test_chunks_that_break_off(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """An answer without its end is no answer, although what came of it may be whole JSON."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"data":[{"index":0,"embedding":"AAAAAA=="}],"usage":{"total_tokens":1}}'
    fake_infinity.faults.append(Fault(wire=head + b"%x\r\n%b\r\n" % (len(body), body)))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one"))

    assert error.failure is Failure.DISCONNECTED


async def test_an_answer_that_says_it_is_huge_is_not_read(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """No batch has an answer of a quarter of a gibibyte."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB
    fake_infinity.faults.append(Fault(wire=head))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "size")


async def test_an_answer_that_becomes_huge_is_not_read_to_its_end(upstream: InfinityUpstream) -> None:
    """Without a length it ends at the bound: what a server sends must not fill our memory."""
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < GIB:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        except ConnectionError:
            pass
        writer.close()

    async with listening(endless) as base:
        error = await failure_of(upstream, deployment(base), timeout_s=30)

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "size")
    assert sent < GIB / 2


async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise AssertionError("a connection was made that must not be")


def tls(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (directory / "self-signed.pem").write_text(SELF_SIGNED)
    context.load_cert_chain(directory / "self-signed.pem")
    return context


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any
) -> AsyncIterator[str]:
    """A server of bytes on a free port; its URL."""
    async with await asyncio.start_server(handle, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"

"""What comes with a 200 and is no answer to the batch: the server's fault, whatever it is."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.upstream.listening import listening
from tests.upstream.requests import deployment, documents, failure_of, texts, to_classify

GIB = 1024**3


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
    [
        *(b'""', b'"AAAA"', b'"AAA"', b'"AA=AAA=="', b'"AAAAAA===="', b"null", b"1", b"{}"),
        *(b"[]", b"[[]]", b"[[1],[2,3]]", b"[[1],2]", b"[[[1]]]", b'["1"]', b"[true]", b"[1e300]", b"[{}]"),
    ],
)
async def test_what_stands_for_a_vector_and_is_none(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, embedding: bytes
) -> None:
    """Neither empty, nor of a size that no float32 has, nor of another type."""
    raw = b'{"data":[{"index":0,"embedding":%b}],"usage":{"total_tokens":1}}' % embedding
    fake_infinity.faults.append(Fault(raw=raw))

    error = await failure_of(upstream, deployment(fake_infinity), texts("one"))

    assert error.failure is Failure.BAD_ANSWER


async def test_lists_are_equally_long(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """As those of one model are."""
    raw = b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1,2]}],"usage":{"total_tokens":1}}'
    fake_infinity.faults.append(Fault(raw=raw))

    assert (await failure_of(upstream, deployment(fake_infinity))).failure is Failure.BAD_ANSWER


async def test_classes_are_text(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """They are handed on unread, and nobody could read what is no UTF-8."""
    raw = b'{"data":[[{"label":"\xff","score":1}]],"usage":{"total_tokens":1}}'
    fake_infinity.faults.append(Fault(raw=raw))

    error = await failure_of(upstream, deployment(fake_infinity, "classifier"), to_classify("a"))

    assert (error.failure, error.reason) == (Failure.BAD_ANSWER, "unreadable")


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
        b'{"data":[{"index":0,"embedding":"AAAAAA=="}],"usage":{"total_tokens":9999999999999999999999}}',
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


@pytest.mark.proves("a server answers a gigabyte", caller="another server's answer; a few MiB are read")
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
    assert sent < 32 * 1024**2

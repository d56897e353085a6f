"""Every way in which a server can fail leaves as the right `Failure`, with words that an operator can use."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.pool import SendError
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.faults import Fault, to
from tests.fakes.infinity import FakeInfinity
from tests.upstream.listening import listening, never, tls
from tests.upstream.requests import deployment, failure_of

SECRET = "sk-very-secret-7997"


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
    async with listening(never, ssl=tls()) as base:
        error = await failure_of(upstream, deployment(base))

    assert error.failure in (Failure.BAD_ANSWER, Failure.DISCONNECTED)


async def test_a_certificate_that_nobody_vouches_for(upstream: InfinityUpstream, tmp_path: Path) -> None:
    """Nothing is sent over TLS that cannot be verified, and the words name the certificate."""
    async with listening(never, ssl=tls()) as base:
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


@pytest.mark.proves("a server answers with a redirect", caller="another server's answer; nothing is sent on")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, status: int
) -> None:
    """Neither texts nor key go where a server points to."""
    async with FakeInfinity() as elsewhere:
        location = f"{elsewhere.url}/embeddings"
        fake_infinity.faults.append(Fault(status=status, headers={"Location": location}))

        error = await failure_of(upstream, deployment(fake_infinity, key=SECRET))
        fake_infinity.faults[0].when = to("/models")
        with pytest.raises(SendError) as asked:
            await upstream.models(deployment(fake_infinity, key=SECRET), 5)

    assert {error.failure, asked.value.failure} == {Failure.BAD_ANSWER}
    assert elsewhere.requests == []


async def test_a_model_that_the_server_does_not_have_is_not_the_callers_fault(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Infinity answers 400 to a name that the configuration has wrong."""
    error = await failure_of(upstream, deployment(fake_infinity, "nobody"))

    assert error.failure is Failure.SERVER_ERROR

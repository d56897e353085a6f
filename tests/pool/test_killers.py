"""Inputs that kill their servers: two die of one, those who shared its batch are answered, and it is refused
from then on."""

import asyncio

import pytest

from gateway.core.lanes import BatchKey
from gateway.core.quarantine import REFUSED_S
from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings
from gateway.errors import BadRequest, DeadlineExceeded, GatewayError, ServerFailed
from gateway.messages import Modality, Task
from gateway.pool import Answer, Pool, Request, SendError
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import Fault, RecordingUpstream
from tests.pool.pools import (
    ask,
    assert_answered,
    assert_at_rest,
    at,
    failure,
    image,
    now,
    running,
    states,
    texts,
)

POISON = "poison"


class Mortal(RecordingUpstream):
    """Servers that die of a certain text, or hang from then on."""

    hangs = False

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        if POISON in request.items and deployment.name not in self.down | self.hung:
            if self.hangs:
                self.hung.add(deployment.name)
            else:
                self.faults.insert(0, Fault(Failure.DISCONNECTED, deployment.name, times=1))
                asyncio.get_running_loop().call_soon(self.down.add, deployment.name)
        return await super().send(deployment, request, timeout_s)

    @property
    def dead(self) -> int:
        return len(self.down | self.hung)


async def refused(pool: Pool, key: BatchKey | None = None) -> bool:
    """Whether a call with the poison is refused at once, whatever else is in it."""
    asked = now()
    error = await failure(ask(pool, ["good", POISON], key or BatchKey(Task.EMBED)))
    assert now() == asked
    return isinstance(error, BadRequest) and "two servers" in str(error) and error.param is not None


@pytest.mark.parametrize("hangs", [False, True], ids=["dies", "hangs"])
@fake_time
async def test_at_most_two_servers_die_of_one_input(hangs: bool) -> None:
    """Those who shared a batch with it are answered by the others."""
    upstream = Mortal(latency_s=0.125)
    upstream.hangs = hangs

    async with running(upstream, "abcde") as pool:
        good = [ask(pool, text) for text in texts(9)]
        bad = ask(pool, POISON)
        more = [ask(pool, text) for text in texts(9, "more")]

        for call in (*good, *more):
            assert_answered(await call)
        assert isinstance(await failure(bad), ServerFailed)
        assert upstream.dead == 2

        assert await refused(pool)
        assert_answered(await ask(pool, "good"))
        await at(now() + REFUSED_S)
        assert upstream.dead == 2
        upstream.down.clear()
        upstream.hung.clear()
        await at(now() + 60)
        assert set(states(pool).values()) == {"up"}
        assert_at_rest(pool)


@fake_time
async def test_a_killer_is_refused_for_some_minutes_only() -> None:
    """It may have been something else after all."""
    upstream = Mortal(latency_s=0.125)

    async with running(upstream, "abc") as pool:
        assert isinstance(await failure(ask(pool, POISON)), ServerFailed)
        await at(now() + REFUSED_S - 1)
        assert await refused(pool)
        await at(now() + 2)
        sent = len(upstream.batches)
        await failure(ask(pool, POISON))

    assert len(upstream.batches) > sent


@fake_time
async def test_whose_callers_have_gone_is_found_all_the_same() -> None:
    """With time limits shorter than it takes to see that a server hangs, it would walk through them all."""
    upstream = Mortal(latency_s=0.125)
    upstream.hangs = True

    async with running(upstream, "abcdef") as pool:
        errors = []
        for _ in range(8):
            errors.append(type(await failure(ask(pool, POISON, within_s=1))))
            await at(now() + 20)

    assert errors == [DeadlineExceeded] * 2 + [BadRequest] * 6
    assert upstream.dead == 2


@fake_time
async def test_where_there_is_one_server_it_dies_twice() -> None:
    """The second time, the suspect is alone there, and what came with it is answered before or after."""
    upstream = Mortal(latency_s=0.125)

    async with running(upstream, "a") as pool:
        deaths = 0
        for _ in range(4):
            calls = [ask(pool, POISON), *(ask(pool, text) for text in texts(3))]
            await asyncio.gather(*calls, return_exceptions=True)
            deaths += upstream.dead
            upstream.down.clear()
            await at(now() + 5)
        assert_answered(await ask(pool, texts(3)))
        assert await refused(pool)

    assert deaths == 2


@fake_time
async def test_suspects_are_never_together() -> None:
    """Or nobody could tell which of them has killed a server."""
    upstream = Mortal(latency_s=0.125)

    async with running(upstream, "abc") as pool:
        calls = [ask(pool, texts(20)), ask(pool, POISON)]
        results = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(results[1], ServerFailed)
    assert not isinstance(results[0], BaseException)
    first = next(batch for batch in upstream.batches if POISON in batch.items)
    assert len(first.items) > 1
    retried = [
        batch for batch in upstream.batches if batch.at > first.at and set(batch.items) & set(first.items)
    ]
    assert all(len(batch.items) == 1 for batch in retried)
    for one in retried:
        at_once = [b for b in retried if b.deployment == one.deployment and one.at <= b.at < one.at + 0.125]
        assert at_once == [one]


@fake_time
async def test_images_of_one_call_are_told_apart() -> None:
    """They go together, but not once a server has died of them."""
    upstream = Mortal(latency_s=0.125)

    async with running(upstream, "abcd") as pool:
        error = await failure(ask(pool, ["fine", POISON, "fine too"], image(1)))
        assert isinstance(error, ServerFailed)
        assert upstream.dead == 2
        assert_answered(await ask(pool, ["fine", "fine too"], image(2)))
        assert await refused(pool, BatchKey(Task.EMBED, modality=Modality.IMAGE, alone=3))


# Servers that say that they failed


def fails_on(text: str) -> Fault:
    return Fault(Failure.SERVER_ERROR, on=lambda request: text in request.items)


class Honest(RecordingUpstream):
    """Servers that answer 500 where they are told to fail, as the wire tells it."""

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        try:
            return await super().send(deployment, request, timeout_s)
        except SendError as error:
            error.may_be_input = error.failure is Failure.SERVER_ERROR
            raise


@fake_time
async def test_what_makes_servers_fail_fails_alone_and_is_refused_then() -> None:
    """Its batch-mates are answered. Once the second server that failed on it has answered another, it is to
    blame."""
    upstream = Honest(latency_s=0.125, faults=[fails_on(POISON)])

    async with running(upstream, "ab") as pool:
        good, bad = ask(pool, texts(5)), ask(pool, POISON)

        assert_answered(await good)
        assert isinstance(await failure(bad), ServerFailed)
        await at(now() + 5)
        assert set(states(pool).values()) == {"up"}
        assert await refused(pool)

    assert sum(POISON in batch.items for batch in upstream.batches) == 2


@fake_time
async def test_servers_that_fail_on_everything_are_to_blame_themselves() -> None:
    """What was asked meanwhile is not refused when they are well again."""
    upstream = Honest(latency_s=0.125)

    async with running(upstream, "abc") as pool:
        upstream.faults.append(Fault(Failure.SERVER_ERROR))
        errors: list[object] = []
        for i in range(6):
            calls = [ask(pool, f"{i} {text}") for text in texts(4)]
            errors += await asyncio.gather(*calls, return_exceptions=True)
            upstream.down |= set("abc")  # probes fail as well
            await at(now() + 1)
            upstream.down.clear()
            await at(now() + 3)
        upstream.faults.clear()
        await idle()

        assert all(isinstance(error, GatewayError) for error in errors)
        for i in range(6):
            assert_answered(await ask(pool, [f"{i} {text}" for text in texts(4)]))

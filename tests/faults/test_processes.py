"""Real Infinity servers that are killed, frozen, started again and all gone, under 200 connections."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.api.caller import Caller, Samples
from tests.api.waiting import until
from tests.faults.conftest import REPLICAS, FrontOf, name_of
from tests.faults.load import Load
from tests.real_infinity import RealInfinity

MOVED_S = 1.0
"""Within so much of a fault the server at fault gets no more work."""
BACK_S = 1.0
"""Within so much of the first server's return callers are served again."""


def text_of(caller: int, call: int) -> str:
    """Of a length that nobody else sends at the same time."""
    return "x" * (1 + caller + 200 * (call % 4))


def load_on(url: str) -> Load:
    return Load(url, text_of, lambda text: [len(text)] * 13, model="debug")


def sent_to(samples: Samples, server: RealInfinity) -> float:
    """Batches that have ended there, well or badly."""
    return samples.total("upstream_requests_total", deployment=name_of(server.url))


async def items_at(caller: Caller, server: RealInfinity) -> tuple[float, float]:
    """Items that were sent there, and to all."""
    samples = await caller.samples()
    at = samples.total("batch_items_sum", deployment=name_of(server.url))
    return at, samples.total("batch_items_sum")


async def assert_no_more_work(caller: Caller, server: RealInfinity, load: Load) -> None:
    """Nothing is under way there, and nothing comes while the others go on."""
    name = name_of(server.url)
    assert (await caller.samples_when("deployment_in_flight_items", 0, deployment=name)) is not None
    before = sent_to(await caller.samples(), server)
    await load.more(1000)
    assert sent_to(await caller.samples(), server) == before


async def assert_taken_back(caller: Caller, server: RealInfinity, load: Load) -> None:
    """It gets work again, and in the end its share."""
    await caller.samples_when("deployment_up", REPLICAS)

    async def has_its_share() -> bool:
        at, of_all = await items_at(caller, server)
        await load.more(500)
        now_at, of_all_now = await items_at(caller, server)
        return now_at - at > 0.5 * (of_all_now - of_all) / REPLICAS

    await until(has_its_share, within_s=20)


async def assert_nothing_is_left(caller: Caller) -> None:
    for gauge in ("in_flight_requests", "queued_items", "deployment_in_flight_items"):
        await caller.samples_when(gauge, 0)


@pytest.mark.proves(
    "SIGKILL of a server under 200 connections, and its restart",
    caller="nothing: every call is answered; the server's share moves within a second, and comes back slowly",
)
async def test_a_killed_server_costs_no_call(replicas: list[RealInfinity], front_of: FrontOf) -> None:
    """It is a broken connection for what is under way and a refused one for what comes then."""
    victim, loop = replicas[0], asyncio.get_running_loop()
    async with front_of("debug", [server.url for server in replicas]) as (gateway, caller):
        async with load_on(gateway.url) as load:
            await load.everybody()

            killed_at = loop.time()
            killing = asyncio.create_task(asyncio.to_thread(victim.kill))
            await caller.samples_when("deployment_up", REPLICAS - 1)
            moved_s = loop.time() - killed_at
            await killing
            await assert_no_more_work(caller, victim, load)

            await asyncio.to_thread(victim.start)
            await assert_taken_back(caller, victim, load)
        samples = await caller.samples()
        await assert_nothing_is_left(caller)

    assert load.failures == []
    assert samples.total("retries_total") > 0
    assert moved_s < MOVED_S


@asynccontextmanager
async def frozen(server: RealInfinity) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.mark.proves(
    "SIGSTOP of a server under 200 connections: it takes connections and answers nothing; then SIGCONT",
    caller="nothing: what hangs there is answered by others within the default time limit; "
    "no new work goes there until it answers again",
)
async def test_a_frozen_server_costs_no_call(replicas: list[RealInfinity], front_of: FrontOf) -> None:
    """Its sockets are open, so only time tells: work stops first, and the canary decides."""
    victim, loop = replicas[1], asyncio.get_running_loop()
    async with front_of("debug", [server.url for server in replicas]) as (gateway, caller):
        async with load_on(gateway.url) as load:
            await load.everybody()
            async with frozen(victim):
                frozen_at = loop.time()
                await until(lambda: holds_still(caller, victim, load), within_s=10)
                stopped_s = loop.time() - frozen_at
                # A canary has ten seconds where a server looks new or shared, as one may on a busy machine.
                await caller.samples_when("deployment_up", REPLICAS - 1, within_s=15)
                await load.everybody()
                await assert_no_more_work(caller, victim, load)
            await assert_taken_back(caller, victim, load)
        await assert_nothing_is_left(caller)

    assert load.failures == []
    # Two looks of some tenths of a second are part of it.
    assert stopped_s < MOVED_S + 1.5
    assert load.longest_s < 15


async def holds_still(caller: Caller, server: RealInfinity, load: Load) -> bool:
    """Whether nothing more goes there, while the others answer."""
    name = name_of(server.url)
    before = (await caller.samples()).total("deployment_in_flight_items", deployment=name)
    await load.more(500)
    after = (await caller.samples()).total("deployment_in_flight_items", deployment=name)
    return before == after


@pytest.mark.proves(
    "All servers down, and one of them started again",
    caller="503 with `Retry-After` at once; answers within a second of the server's return",
)
async def test_with_all_servers_gone_callers_know_at_once(
    replicas: list[RealInfinity], front_of: FrontOf
) -> None:
    """Those who wait when the last one goes, and those who come then."""
    loop = asyncio.get_running_loop()
    async with front_of("debug", [server.url for server in replicas]) as (_, caller):
        await asyncio.gather(*(asyncio.to_thread(server.kill) for server in replicas))
        async with asyncio.TaskGroup() as calls:
            asked = loop.time()
            waiting = [calls.create_task(caller.embed("x" * (n + 1), "debug")) for n in range(200)]
        told_s = loop.time() - asked
        await asyncio.to_thread(replicas[0].start)
        returned_at = loop.time()
        await until(lambda: is_served(caller))
        back_s = loop.time() - returned_at
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in replicas[1:]))
        await caller.samples_when("deployment_up", REPLICAS)

    errors = [call.result() for call in waiting]
    assert {reply.status for reply in errors} == {503}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in errors)
    assert all("is up" in json.loads(reply.raw)["error"]["message"] for reply in errors)
    assert told_s < 2
    assert back_s < BACK_S


async def is_served(caller: Caller) -> bool:
    reply = await caller.embed("x" * 7, "debug")
    return reply.status == 200 and reply.vectors == [[7.0] * 13]

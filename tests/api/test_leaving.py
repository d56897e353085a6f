"""Callers who hang up: their work is not done for nothing, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.core.settings import BatchingSettings
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pools_of
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

GONE = {"route": "/v1/embeddings", "model": "", "status": 499}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One that sends a single batch at a time."""
    settings = config(*pools_of(shared_fake), batching=BatchingSettings(in_flight_max=1))
    async with GatewayInProcess(settings) as gateway:
        yield gateway


@pytest.fixture
def gate(fake: FakeInfinity) -> asyncio.Event:
    """The server answers when this is set."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate))
    return gate


async def hang_up(*calls: asyncio.Task[object]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_what_waits_for_a_caller_who_has_gone_is_never_sent(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """It is counted as 499, and who waits behind it moves up."""
    before = (await caller.samples()).total("requests_total", status=499)
    held = asyncio.create_task(caller.embed("held"))
    await fake.received(1)
    leaving = asyncio.create_task(caller.embed(["leaving"] * 100))
    await caller.samples_when("queued_items", 100)
    staying = asyncio.create_task(caller.embed("staying"))
    await caller.samples_when("queued_items", 101)

    await hang_up(leaving)
    samples = await caller.samples_when("requests_total", before + 1, status=499)
    gate.set()
    replies = [await held, await staying]

    assert samples.total("queued_items") == 1
    assert samples.value("in_flight_requests", model="bert") == 2
    assert [reply.status for reply in replies] == [200, 200]
    assert fake.batches == [["held"], ["staying"]]


async def test_who_leaves_a_batch_under_way_leaves_the_others_in_it(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """The batch goes on, and its permit comes back when it ends."""
    before = (await caller.samples()).total("requests_total", status=499)
    calls = [asyncio.create_task(caller.embed(f"text {i}")) for i in range(3)]
    await caller.samples_when("in_flight_requests", 3)
    await fake.received(1)

    await hang_up(calls[1])
    during = await caller.samples_when("requests_total", before + 1, status=499)
    gate.set()
    replies = [await calls[0], await calls[2]]
    after = await caller.samples_when("in_flight_requests", 0)

    assert during.total("deployment_in_flight_items") >= 1
    assert [reply.vectors for reply in replies] == [
        [vector_of("text 0").tolist()],
        [vector_of("text 2").tolist()],
    ]
    assert after.total("deployment_in_flight_items") == 0
    assert after.total("queued_items") == 0


async def test_a_batch_that_everybody_has_left_still_ends_its_permit(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """Infinity does not cancel, so the server stays busy until it answers, and is counted so."""
    leaving = asyncio.create_task(caller.embed(["a", "b"]))
    await fake.received(1)

    await hang_up(leaving)
    during = await caller.samples_when("in_flight_requests", 0)
    gate.set()
    after = await caller.samples_when("deployment_in_flight_items", 0)
    reply = await caller.embed("next")

    assert during.total("deployment_in_flight_items") == 2
    assert after.total("queued_items") == 0
    assert reply.vectors == [vector_of("next").tolist()]


async def test_the_rest_of_a_large_call_is_not_sent(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """What has left has left; the batches that wait are dropped."""
    before = (await caller.samples()).total("requests_total", status=499)
    leaving = asyncio.create_task(caller.embed([f"text {i}" for i in range(320)]))
    await fake.received(1)

    await hang_up(leaving)
    samples = await caller.samples_when("requests_total", before + 1, status=499)
    gate.set()
    reply = await caller.embed("next")

    assert samples.total("queued_items") == 0
    assert reply.status == 200
    assert [len(batch) for batch in fake.batches] == [32, 1]


async def test_many_who_leave_at_once_leave_nothing_behind(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """As when a client process dies."""
    before = (await caller.samples()).total("requests_total", status=499)
    held = asyncio.create_task(caller.embed("held"))
    await fake.received(1)
    leaving = [asyncio.create_task(caller.embed([f"text {i}"] * (i % 5 + 1))) for i in range(60)]
    await caller.samples_when("in_flight_requests", 61)

    await hang_up(*leaving)
    await caller.samples_when("requests_total", before + 60, status=499)
    gate.set()
    reply = await held
    after = await caller.samples_when("in_flight_requests", 0)

    assert reply.status == 200
    assert fake.batches == [["held"]]
    assert after.total("queued_items") == after.total("deployment_in_flight_items") == 0


async def test_nobody_is_charged_for_what_was_not_answered(
    caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """Neither items nor tokens."""
    before = await caller.samples()
    leaving = asyncio.create_task(caller.embed("leaving"))
    await fake.received(1)

    await hang_up(leaving)
    await caller.samples_when("requests_total", before.total("requests_total", status=499) + 1, status=499)
    gate.set()
    after = await caller.samples_when("deployment_in_flight_items", 0)

    assert after.value("requests_total", **GONE) - before.value("requests_total", **GONE) == 1
    for name in ("items_total", "tokens_total"):
        assert after.total(name) == before.total(name)

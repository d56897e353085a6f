"""Inputs that servers refuse, and inputs that kill them, among the calls of 200 others."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.api.caller import Caller, Reply
from tests.api.configs import config, pool
from tests.api.waiting import until
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.gateway_in_process import GatewayInProcess

CALLERS = 200
BERT = FakeModel("bert")
WORKING = ServiceTime(l=0.002, o=0.01, a=0.0005)
"""Slow enough for calls to share batches."""


def assert_own_vectors(replies: list[Reply], texts: list[str]) -> None:
    assert [reply.vectors for reply in replies] == [[vector_of(text).tolist()] for text in texts]


@pytest.mark.proves(
    "An input that the server refuses (4xx), among the calls of 200",
    caller="400 for the call with that input; its batch-mates get their vectors",
)
async def test_a_refused_input_fails_alone_among_200() -> None:
    """With at most two more requests for each halving of its batch."""
    texts = [f"text {i}" for i in range(CALLERS)]
    async with (
        FakeInfinity([BERT], service=WORKING) as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.faults.append(Fault(status=422, when=contains("poison")))
        fake.requests.clear()
        async with asyncio.TaskGroup() as calls:
            good = [calls.create_task(caller.embed(text)) for text in texts[: CALLERS // 2]]
            bad = calls.create_task(caller.embed("poison"))
            good += [calls.create_task(caller.embed(text)) for text in texts[CALLERS // 2 :]]

    assert "refused the input" in bad.result().error(400)
    assert_own_vectors([call.result() for call in good], texts)
    refused = [batch for batch in fake.batches if "poison" in batch]
    assert refused[-1] == ["poison"]
    assert len(refused) <= 1 + math.ceil(math.log2(len(refused[0])))
    items = sum(map(len, fake.batches))
    assert items <= CALLERS + 1 + len(refused[0]) * len(refused)


@asynccontextmanager
async def five_servers(fakes: list[FakeInfinity]) -> AsyncIterator[tuple[GatewayInProcess, Caller]]:
    """A gateway before five that die of a certain text."""
    async with AsyncExitStack() as running:
        for _ in range(5):
            fakes.append(await running.enter_async_context(FakeInfinity([BERT], service=WORKING)))
            fakes[-1].faults.append(Fault(kills_server=True, when=contains("killer")))
        gateway = await running.enter_async_context(GatewayInProcess(config(pool("bert", *fakes))))
        yield gateway, await running.enter_async_context(Caller(gateway.url))


@pytest.mark.proves(
    "An input that kills its server, among the calls of 200, with five servers",
    caller="502 for the call with that input, and 400 for minutes when it is asked again; "
    "its batch-mates get their vectors; at most two servers die",
)
async def test_an_input_that_kills_servers_kills_two_at_most() -> None:
    """What was under way where a server died goes elsewhere one by one, and nobody gets the killer twice."""
    texts = [f"text {i}" for i in range(CALLERS)]
    fakes: list[FakeInfinity] = []
    async with five_servers(fakes) as (gateway, caller):
        async with asyncio.TaskGroup() as calls:
            good = [calls.create_task(caller.embed(text)) for text in texts]
            bad = calls.create_task(caller.embed("killer"))
        died = [fake for fake in fakes if not fake.runs]
        for fake in died:
            await fake.start()
        await until(lambda: gateway.up == len(fakes))
        again = await asyncio.gather(*(caller.embed("killer") for _ in range(5)))
        later = await asyncio.gather(*(caller.embed(text) for text in texts))
        still = [fake for fake in fakes if fake.runs]
        samples = await caller.samples()

    assert 1 <= len(died) <= 2
    assert bad.result().error(502)
    assert_own_vectors([call.result() for call in good], texts)
    for reply in again:
        assert reply.error(400)
    assert_own_vectors(later, texts)
    assert len(still) == len(fakes)
    for gauge in ("in_flight_requests", "queued_items", "deployment_in_flight_items"):
        assert samples.total(gauge) == 0


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "in a list"])
async def test_a_killer_in_a_list_fails_its_list_alone(others: int) -> None:
    """A call is answered whole or not at all; beside it another list of the same caller is."""
    fakes: list[FakeInfinity] = []
    listed = [*(f"beside {i}" for i in range(others)), "killer"]
    async with five_servers(fakes) as (_, caller):
        bad, good = await asyncio.gather(caller.embed(listed), caller.embed(["one", "two"]))
        again = await caller.embed(["another", "killer"])
        died = sum(not fake.runs for fake in fakes)

    assert bad.error(502)
    assert again.error(400)
    assert good.vectors == [vector_of(text).tolist() for text in ("one", "two")]
    assert died <= 2

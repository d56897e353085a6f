"""Servers that die, and callers who harm, while others are being served: the others do not notice."""

import asyncio

import pytest

from tests.api.caller import Caller
from tests.api.configs import config, pool
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, ServiceTime, vector_of
from tests.gateway_in_process import GatewayInProcess


@pytest.mark.parametrize("how", ["dies", "resets"])
async def test_nobody_notices_a_server_that_dies_under_load(how: str) -> None:
    """32 callers, one call after another, while one of two servers goes and comes back: all get their own."""
    slow = ServiceTime(l=0.002, o=0.002)
    async with (
        FakeInfinity(service=slow) as one,
        FakeInfinity(service=slow) as other,
        GatewayInProcess(config(pool("bert", one, other))) as gateway,
        Caller(gateway.url) as caller,
    ):
        enough = asyncio.Event()

        async def call_again_and_again(number: int) -> int:
            count = 0
            while not enough.is_set():
                reply = await caller.embed(f"{number} {count}")
                assert reply.vectors == [vector_of(f"{number} {count}").tolist()]
                count += 1
            return count

        async with asyncio.TaskGroup() as callers, asyncio.timeout(20):
            calls = [callers.create_task(call_again_and_again(number)) for number in range(32)]
            await one.received(30)
            if how == "dies":
                await one.stop()
            else:
                one.faults.append(Fault(drop="middle", reset=True))
            await other.received(len(other.batches) + 30)
            one.faults.clear()
            if how == "dies":
                await one.start()
            await gateway.wait_up(2)
            await one.received(len(one.batches) + 10)
            enough.set()
        samples = await caller.samples()

    assert min(call.result() for call in calls) > 1
    assert samples.total("retries_total") > 0
    for gauge in ("in_flight_requests", "queued_items", "deployment_in_flight_items"):
        assert samples.total(gauge) == 0


async def test_callers_in_a_hurry_do_not_take_a_server_from_the_others() -> None:
    """That it cannot keep a limit which callers chose says nothing about it."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.faults.append(Fault(hang=True, when=faults.contains("slow")))
        hasty = await asyncio.gather(
            *(
                caller.post(
                    "/v1/embeddings", {"model": "bert", "input": "slow", "x": i}, x_request_timeout="1.05"
                )
                for i in range(6)
            )
        )
        reply = await caller.embed("good")

    assert {reply.status for reply in hasty} == {504}
    assert reply.vectors == [vector_of("good").tolist()]

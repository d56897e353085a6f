"""One server of two that does its worst, while 50 callers go on: whatever it does, the other one answers."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.core.settings import DeploymentSettings, HealthSettings, PoolSettings
from tests.api.caller import Caller
from tests.api.configs import config, deployment, pool
from tests.api.waiting import until
from tests.fakes import faults
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.faults.load import Load
from tests.gateway_in_process import GatewayInProcess
from tests.upstream.listening import listening, tls

BERT = FakeModel("bert")
QUICK = ServiceTime(l=0.002, o=0.003, a=0.0002)
GIGABYTE = 1 << 30
QUICK_PROBES = HealthSettings(probe_interval_s=0.05, probe_timeout_s=2)


def load_on(url: str, callers: int = 50) -> Load:
    return Load(
        url,
        lambda caller, call: f"caller {caller} {call}",
        lambda text: vector_of(text).tolist(),
        model="bert",
        callers=callers,
    )


BAD: list[tuple[str, dict[str, Any]]] = [
    ("resets in mid-answer", {"drop": "middle", "reset": True}),
    ("500", {"status": 500}),
    ("429 for ever", {"status": 429}),
    ("wrong counts", {"edit": faults.fewer}),
    ("garbage", {"raw": b"\x00\xff<html>" * 100}),
    ("no HTTP", {"wire": b"\x16\x03\x01\x02\x00garbage"}),
    ("1 GB that is announced", {"padding_bytes": GIGABYTE}),
    ("1 GB in chunks", {"padding_bytes": GIGABYTE, "chunked": True}),
    ("a hang", {"hang": True}),
]


@pytest.mark.proves(
    "A server that does one of these to all that it gets, under load: resets in mid-answer, 500, "
    "429 for ever, wrong counts, garbage, an answer of 1 GB, a hang",
    caller="nothing: every call is answered by another server within the default time limit",
)
@pytest.mark.parametrize("fault", [fault for _, fault in BAD], ids=[name for name, _ in BAD])
async def test_a_bad_server_costs_no_call(fault: dict[str, Any]) -> None:
    """It is out as long as that lasts, and back when it is over."""
    await assert_harmless(Fault(**fault))


@pytest.mark.proves(
    "A server that answers a byte at a time (a slow drip), under load",
    caller="nothing: every call is answered by another server within the default time limit",
)
async def test_a_server_that_drips_costs_no_call() -> None:
    """Though something always comes, so that no look at idle connections would find it."""
    await assert_harmless(Fault(drip_s=0.2))


async def assert_harmless(fault: Fault) -> None:
    """Of one server of two, which it takes out until it is over."""
    async with FakeInfinity([BERT], service=QUICK) as bad, FakeInfinity([BERT], service=QUICK) as good:
        settings = config(pool("bert", bad, good), health=QUICK_PROBES)
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            async with load_on(gateway.url) as load:
                await load.everybody()
                bad.faults.append(fault)
                await until(lambda: gateway.up == 1, within_s=15)
                await load.everybody()
                bad.faults.clear()
                await until(lambda: gateway.up == 2)
                await bad.received(len(bad.batches) + 20)
            samples = await caller.samples()

    assert load.failures == []
    assert load.longest_s < 15
    for gauge in ("in_flight_requests", "queued_items", "deployment_in_flight_items"):
        assert samples.total(gauge) == 0


@pytest.mark.proves(
    "A server whose certificate nobody vouches for, or that speaks no TLS where it should",
    caller="nothing: it gets no traffic, and the others answer",
)
@pytest.mark.parametrize("speaks_tls", [True, False])
async def test_a_server_whose_tls_fails_gets_no_traffic(speaks_tls: bool) -> None:
    """Nothing is sent that cannot be verified, and nothing in the clear instead."""
    seen: list[bytes] = []

    async def note(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(5))

    options: dict[str, Any] = {"ssl": tls()} if speaks_tls else {}
    async with FakeInfinity([BERT]) as good, listening(note, **options) as base:
        there = deployment(good, "bert")
        members = (there, DeploymentSettings("other", base.replace("http:", "https:"), "bert"))
        settings = config(PoolSettings("bert", members), health=QUICK_PROBES)
        async with (
            GatewayInProcess(settings, deployments=1) as gateway,
            Caller(gateway.url) as caller,
            load_on(gateway.url) as load,
        ):
            await load.everybody()
            samples = await caller.samples()

    assert load.failures == []
    assert samples.total("upstream_requests_total", deployment=members[1].name) == 0
    assert all(not text.startswith(b"POST") for text in seen)


@pytest.mark.proves(
    "A server that becomes three times, or ten times, as slow, under load",
    caller="nothing: slowness is no reason to send anything twice, and the faster servers get the work",
)
@pytest.mark.parametrize("times", [3, 10])
async def test_a_slow_server_causes_no_storm(times: int) -> None:
    """What is sent again stays within the budgets of retries and hedges, counted at the servers."""
    usual = ServiceTime(l=0.002, o=0.01, a=0.0005)
    slow = ServiceTime(l=usual.l, o=usual.o * times, a=usual.a * times)
    fakes = [FakeInfinity([BERT], service=usual) for _ in range(3)]
    async with AsyncExitStack() as running:
        for fake in fakes:
            await running.enter_async_context(fake)
        gateway = await running.enter_async_context(GatewayInProcess(config(pool("bert", *fakes))))
        async with Caller(gateway.url) as caller:
            async with load_on(gateway.url) as load:
                await load.more(500)
                for fake in fakes:
                    fake.requests.clear()
                before = load.answers.total()
                fakes[0].worker.service = slow
                await load.more(2000)
                samples = await caller.samples()
            answered = load.answers.total() - before
            sent = sum(len(batch) for fake in fakes for batch in fake.batches)
            at_slow = sum(map(len, fakes[0].batches))

    assert load.failures == []
    assert samples.total("retries_total") == 0
    # What was under way when counting began, and one batch in twenty sent to an idle server beside.
    assert sent <= answered * 1.05 + load.callers
    assert at_slow < sent / 3
    assert samples.total("deployment_up") == 3


async def test_a_server_that_comes_back_begins_with_one_batch() -> None:
    """Until it has answered that, it gets no other, however many wait."""
    gate = asyncio.Event()
    async with FakeInfinity([BERT], service=QUICK) as back, FakeInfinity([BERT], service=QUICK) as other:
        settings = config(pool("bert", back, other), health=QUICK_PROBES)
        async with GatewayInProcess(settings) as gateway, load_on(gateway.url, callers=200) as load:
            await load.everybody()
            await back.stop()
            await until(lambda: gateway.up == 1)
            back.faults.append(Fault(delay=gate, when=contains("caller")))
            back.requests.clear()
            await back.start()
            await until(lambda: gateway.up == 2)
            await until(lambda: back.in_flight == 1)
            await other.received(len(other.batches) + 30)
            held = [batch for batch in back.batches if any("caller" in text for text in batch)]
            gate.set()

    assert len(held) == 1
    assert load.failures == []

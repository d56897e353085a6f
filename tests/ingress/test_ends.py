"""Gateways that end under load, behind nginx and Envoy, in front of three real Infinity servers."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.end_to_end.configs import entry
from tests.faults.load import Load
from tests.ingress.conftest import SERVERS, gateways_of
from tests.ingress.proxies import KINDS, Ingress, Times
from tests.real_infinity import RealInfinity

GRACE_S = 0.5
CALLERS = 64


@pytest.mark.proves(
    "A gateway drained (SIGTERM) under load, behind nginx and Envoy that are told nothing",
    caller="nothing: every call is answered",
)
@pytest.mark.proves(
    "A gateway killed (SIGKILL) under load, behind nginx and Envoy",
    caller="nothing: they give its calls to the other, once",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_end_of_a_gateway_costs_no_call(
    number: signal.Signals, replicas: list[RealInfinity], tmp_path: Path
) -> None:
    models = [entry("debug", [server.url for server in replicas])]
    settings = {"drain": {"grace_s": GRACE_S}, "allow_anonymous": True}
    async with AsyncExitStack() as running:
        gateways = await running.enter_async_context(gateways_of(tmp_path, models, SERVERS, gateway=settings))
        urls = [gateway.url for gateway in gateways]
        loads = []
        for kind in KINDS:
            ingress = Ingress(kind, urls, tmp_path, Times(look_s=0.1))
            await running.enter_async_context(ingress)
            loads.append(await running.enter_async_context(loading(ingress)))
        await everybody(loads)
        gateways[0].signal(number)
        code = await gateways[0].wait()
        await everybody(loads)

    assert [load.failures for load in loads] == [[] for _ in KINDS]
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)


def loading(ingress: Ingress) -> Load:
    return Load(
        ingress.url,
        lambda caller, call: "x" * (1 + (caller + call) % 100),
        lambda text: [len(text)] * 13,
        model="debug",
        callers=CALLERS,
    )


async def everybody(loads: list[Load]) -> None:
    await asyncio.gather(*(load.everybody() for load in loads))

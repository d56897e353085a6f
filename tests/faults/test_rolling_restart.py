"""Two gateways behind nginx, each restarted in its turn as a new version would be rolled out."""

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.faults.load import Load
from tests.faults.nginx import Nginx
from tests.gateway_process import GatewayProcess

GRACE_S = 1.0
"""Long enough for the ingress to look and to read its configuration again."""


@pytest.mark.proves(
    "A rolling restart of two gateways behind nginx, under load",
    caller="nothing: every call through nginx is answered",
)
async def test_a_rolling_restart_costs_no_call(fake_infinity: FakeInfinity, tmp_path: Path) -> None:
    """nginx is told what an ingress sees: a gateway whose readiness fails goes, one that is ready comes."""
    content = {"model_list": [entry("bert", [fake_infinity.url])], "gateway": {"drain": {"grace_s": GRACE_S}}}
    file = written(tmp_path / "gateway.yaml", content)
    async with AsyncExitStack() as running:

        async def started() -> GatewayProcess:
            gateway = await running.enter_async_context(GatewayProcess(config=file))
            await until(lambda: is_ready(gateway))
            return gateway

        old, new = [await started(), await started()], list[GatewayProcess]()
        nginx = await running.enter_async_context(Nginx([gateway.url for gateway in old], tmp_path))
        async with Load(
            nginx.url,
            lambda caller, call: f"{caller} {call}",
            lambda text: vector_of(text).tolist(),
            model="bert",
            callers=64,
        ) as load:
            await load.everybody()
            for gateway, other in ((old[0], old[1]), (old[1], None)):
                gateway.signal(signal.SIGTERM)
                await until(lambda gateway=gateway: is_unready(gateway))
                nginx.use([other.url if other else new[0].url])
                assert await gateway.wait() == 0
                new.append(await started())
                nginx.use([each.url for each in (*new, other) if each])
                await load.everybody()
            answered = [await answered_by(gateway) for gateway in new]

    assert load.failures == []
    assert min(answered) > 0
    lines = [line for gateway in (*old, *new) for line in gateway.output]
    assert not any("Traceback" in line or "ERROR" in line for line in lines)


async def is_ready(gateway: GatewayProcess) -> bool:
    async with aiohttp.ClientSession(gateway.url) as session, session.get("/health/readiness") as reply:
        return reply.status == 200


async def is_unready(gateway: GatewayProcess) -> bool:
    return not await is_ready(gateway)


async def answered_by(gateway: GatewayProcess) -> float:
    samples = await gateway.metrics()
    return sum(
        value for name, value in samples.items() if name.startswith("infinity_gateway_requests_total{")
    )

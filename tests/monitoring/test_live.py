"""A real Prometheus that scrapes a real gateway in front of stand-ins, and a real Alertmanager behind it."""

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.fakes.process import MODEL, FakeProcess
from tests.gateway_process import GatewayProcess
from tests.monitoring.processes import MONITORING, Alertmanager, Prometheus

JOB = "infinity-gateway"
GONE = "gone"
"""A model without any server: calls for it fail."""
CALLERS = 8
KEY = "sk-load"
WITHIN_S = 40.0
VARIABLES = {"$__rate_interval": "30s", "$model": ".*", "$deployment": ".*"}


def panel_queries() -> Iterator[str]:
    """Every expression of the dashboard, with Grafana's variables as they stand for all."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for name, value in VARIABLES.items():
                expr = expr.replace(name, value)
            yield expr


def rules(file: str, kind: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


@asynccontextmanager
async def load(url: str) -> AsyncIterator[None]:
    """Callers who ask for new texts, old ones, and a model that has no server, until the block ends."""

    async def call_on(session: aiohttp.ClientSession, number: int) -> None:
        for call in itertools.count():
            texts = [f"{number} {call} " + "word " * (call % 9), f"known {call % 5}"]
            for model in (MODEL, MODEL, GONE):
                with suppress(aiohttp.ClientError):
                    async with session.post("/v1/embeddings", json={"model": model, "input": texts}) as reply:
                        await reply.read()
            await asyncio.sleep(0)

    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as session:
        calling = [asyncio.create_task(call_on(session, number)) for number in range(CALLERS)]
        try:
            yield
        finally:
            for task in calling:
                task.cancel()
            await asyncio.gather(*calling, return_exceptions=True)


async def misbehave(fake: FakeProcess) -> None:
    """Errors, answers that do not fit, and lateness, in turn."""
    faults: list[dict[str, Any]] = [{"status": 500}, {"edit": "fewer"}, {"delay": 0.5}]
    for fault in itertools.cycle(faults):
        fake.tell(**fault, times=1)
        await asyncio.sleep(0.3)


@pytest.mark.timeout(90)
async def test_every_expression_has_data(tmp_path: Path) -> None:
    """Of the dashboard and of the recording rules; and alerts name no metric that is not there."""
    wanted = {*panel_queries(), *(rule["record"] for rule in rules("rules.yml", "record"))}
    assert len(wanted) > 50
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"[{{name: load, key: {KEY}}}]\n")
    async with FakeProcess() as bad, FakeProcess() as good:
        settings = {"cache": {"bytes_max": 1_000_000}, "keys_file": str(keys)}
        models = [entry(MODEL, [bad.url, good.url]), entry(GONE, ["http://127.0.0.1:9"])]
        config = written(tmp_path / "gateway.yaml", {"model_list": models, "gateway": settings})
        async with GatewayProcess(config=config) as gateway:
            await gateway.wait_ready(2)
            address = gateway.url.removeprefix("http://")
            files = [MONITORING / "rules.yml", MONITORING / "alerts.yml"]
            async with Prometheus(tmp_path, {JOB: address}, files) as prometheus, load(gateway.url):
                misbehaving = asyncio.create_task(misbehave(bad))

                async def all_have_data() -> bool:
                    for expr in sorted(wanted):
                        found = [float(series["value"][1]) for series in await prometheus.query(expr)]
                        if any(map(math.isfinite, found)):
                            wanted.discard(expr)
                    return not wanted

                with suppress(TimeoutError):
                    await until(all_have_data, within_s=WITHIN_S)
                misbehaving.cancel()
                samples = await gateway.metrics()

    assert sorted(wanted) == []
    there = {name.partition("{")[0] for name in samples}
    for rule in rules("alerts.yml", "alert"):
        assert set(re.findall(r"(?<!:)\binfinity_gateway_\w+", rule["expr"])) <= there, rule["alert"]


@pytest.mark.timeout(90)
async def test_a_killed_server_is_told_of(tmp_path: Path) -> None:
    """ServerDown fires in Prometheus, reaches Alertmanager with the figures, and clears after the restart."""
    hasty = tmp_path / "alerts.yml"
    hasty.write_text(re.sub(r"\bfor: \w+", "for: 1s", (MONITORING / "alerts.yml").read_text()))
    async with FakeProcess() as killed, FakeProcess() as other:
        config = written(
            tmp_path / "gateway.yaml", {"model_list": [entry(MODEL, [killed.url, other.url])], "gateway": {}}
        )
        async with GatewayProcess(config=config) as gateway, Alertmanager(tmp_path) as alertmanager:
            await gateway.wait_ready(2)
            address = gateway.url.removeprefix("http://")
            async with Prometheus(
                tmp_path, {JOB: address}, [MONITORING / "rules.yml", hasty], alertmanager.address
            ) as prometheus:
                fires = 'ALERTS{alertname="InfinityServerDown",alertstate="firing"}'
                await until(lambda: _holds(prometheus, "infinity_gateway_deployment_up == 1", 2))
                assert await alertmanager.alerts() == []

                killed.kill()
                await until(lambda: _holds(prometheus, fires, 1), within_s=WITHIN_S)

                async def told() -> bool:
                    return any("InfinityServerDown" in line for line in await alertmanager.alerts())

                await until(told, within_s=WITHIN_S)
                [line] = [line for line in await alertmanager.alerts() if "InfinityServerDown" in line]
                server = killed.url.removeprefix("http://")
                assert f'deployment="{server}"' in line
                assert 'severity="warning"' in line
                assert f"1 gateways cannot use {server}, which serves {MODEL}" in line
                assert 'runbook_url="docs/operating.md#infinityserverdown"' in line

                await killed.start()
                await until(lambda: _holds(prometheus, fires, 0), within_s=WITHIN_S)

                async def clear() -> bool:
                    return not await told()

                await until(clear, within_s=WITHIN_S)


async def _holds(prometheus: Prometheus, expr: str, series: int) -> bool:
    return len(await prometheus.query(expr)) == series

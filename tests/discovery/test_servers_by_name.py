"""Servers behind a name: they come, leave and change their address under load, and no call is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import yaml

from gateway import discovery
from gateway.config import Config, parse
from gateway.upstream.resolver import look_up
from tests.api.caller import Caller
from tests.api.waiting import until
from tests.discovery.dns_server import DnsServer
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.faults.load import Load
from tests.gateway_in_process import GatewayInProcess

NAME = "infinity-headless"
SERVICE = ServiceTime(l=0.001, o=0.002, a=0.0001)
TEXT = {"model": "bert", "input": "one"}
FOREVER_S = 600.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_GAP_S", 0.01)


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        yield server


@asynccontextmanager
async def servers(count: int, *, models: tuple[str, ...] = ("bert",)) -> AsyncIterator[list[FakeInfinity]]:
    """On the same port of 127.0.0.2, 127.0.0.3, …"""
    async with AsyncExitStack() as stack:
        found: list[FakeInfinity] = []
        for last in range(2, 2 + count):
            fake = FakeInfinity(
                [FakeModel(name) for name in models],
                service=SERVICE,
                host=f"127.0.0.{last}",
                port=found[0].port if found else 0,
            )
            found.append(await stack.enter_async_context(fake))
        yield found


def config(port: int, refresh_s: float = 0.05, **more: Any) -> Config:
    entry = {
        "model_name": "bert",
        "litellm_params": {"model": "infinity/bert"},
        "discovery": {"dns": f"{NAME}:{port}"},
    }
    content = {"model_list": [entry], "gateway": {"discovery": {"refresh_s": refresh_s}}} | more
    return parse(yaml.safe_dump(content), {})


def load(gateway: GatewayInProcess) -> Load:
    return Load(
        gateway.url,
        lambda who, call: f"{who} {call}",
        lambda text: vector_of(text).tolist(),
        model="bert",
        callers=16,
    )


def deployments(gateway: GatewayInProcess, model: str = "bert") -> list[str]:
    pools = {stats.model: stats for stats in gateway.runtime.gateway.stats()}
    return sorted(each.name for each in pools[model].deployments)


def at(*fakes: FakeInfinity) -> list[str]:
    return sorted(f"{fake.host}:{fake.port}" for fake in fakes)


async def test_each_address_is_a_server(dns: DnsServer) -> None:
    """Each of them is asked by the name, not by its address."""
    async with servers(3) as fakes:
        dns.zone[NAME] = [fake.host for fake in fakes]
        settings = config(fakes[0].port)
        async with GatewayInProcess(settings, deployments=3, names=dns.look_up) as gateway:
            assert deployments(gateway) == at(*fakes)
            async with load(gateway) as callers:
                await callers.more(200)

        assert callers.failures == []
        for fake in fakes:
            assert len(fake.batches) > 5
            assert {request.headers["Host"] for request in fake.requests} == {f"{NAME}:{fake.port}"}


@pytest.mark.proves("a server leaves DNS", caller="nothing: it gets no more calls, and what it has ends")
async def test_servers_come_and_leave_under_load(dns: DnsServer) -> None:
    async with servers(4) as fakes:
        dns.zone[NAME] = [fake.host for fake in fakes[:2]]
        settings = config(fakes[0].port)
        async with (
            GatewayInProcess(settings, deployments=2, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            async with load(gateway) as callers:
                await callers.more(50)
                dns.zone[NAME] = [fake.host for fake in fakes]
                await gateway.wait_up(4)
                await callers.more(100)
                assert all(len(fake.batches) > 1 for fake in fakes)

                dns.zone[NAME] = [fake.host for fake in fakes[2:]]
                await until(lambda: deployments(gateway) == at(*fakes[2:]))
                await callers.everybody()
                left = [len(fake.batches) for fake in fakes[:2]]
                await callers.more(100)
                assert [len(fake.batches) for fake in fakes[:2]] == left
            samples = await caller.samples()

        assert callers.failures == []
        assert samples.value("discovered_addresses", host=NAME) == 2
        shown = {labels["deployment"] for labels in map(dict, samples.series("upstream_requests_total"))}
        assert shown == set(at(*fakes[2:]))


@pytest.mark.proves("all servers behind a name get other addresses", caller="nothing")
async def test_all_addresses_change_at_once(dns: DnsServer) -> None:
    """Those that are gone work until one that has come does."""
    async with servers(4) as fakes:
        dns.zone[NAME] = [fake.host for fake in fakes[:2]]
        gate = asyncio.Event()
        for fake in fakes[2:]:
            fake.faults.append(Fault(delay=gate))
        settings = config(fakes[0].port)
        async with (
            GatewayInProcess(settings, deployments=2, names=dns.look_up) as gateway,
            load(gateway) as callers,
        ):
            await callers.more(50)
            dns.zone[NAME] = [fake.host for fake in fakes[2:]]
            await until(lambda: len(deployments(gateway)) == 4)
            await callers.everybody()
            gate.set()
            await until(lambda: deployments(gateway) == at(*fakes[2:]))
            await callers.everybody()

        assert callers.failures == []


async def test_a_server_that_is_gone_is_looked_for_at_once(dns: DnsServer) -> None:
    """Not when the time for the next look-up has come."""
    async with servers(2) as (old, new):
        dns.zone[NAME] = [old.host]
        settings = config(old.port, FOREVER_S)
        async with (
            GatewayInProcess(settings, deployments=1, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            assert (await caller.post("/v1/embeddings", TEXT)).status == 200
            dns.zone[NAME] = [new.host]
            await old.stop()
            assert (await caller.post("/v1/embeddings", TEXT)).status == 503
            await until(lambda: deployments(gateway) == at(new))
            await gateway.wait_up(1)
            assert (await caller.post("/v1/embeddings", TEXT)).status == 200


@pytest.mark.proves("a name cannot be looked up any more", caller="nothing: the servers of before are used")
@pytest.mark.parametrize("how", ["fails", "hangs", "is unknown", "is empty"])
async def test_a_look_up_that_finds_nothing_changes_nothing(
    dns: DnsServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, and so is its end."""
    caplog.set_level(logging.INFO, "gateway")
    async with servers(2) as fakes:
        dns.zone[NAME] = [fake.host for fake in fakes]
        settings = config(fakes[0].port)
        async with (
            GatewayInProcess(settings, deployments=2, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            match how:
                case "fails":
                    dns.fails = True
                case "hangs":
                    dns.hangs = True
                case "is unknown":
                    del dns.zone[NAME]
                case _:
                    dns.zone[NAME] = []
            await until(
                lambda: f"{NAME} could not be looked up, and its 2 known addresses stay" in caplog.text
            )
            broken = await caller.samples()
            assert deployments(gateway) == at(*fakes)
            assert (await caller.post("/v1/embeddings", TEXT)).status == 200

            dns.fails = dns.hangs = False
            dns.zone[NAME] = [fake.host for fake in fakes]
            await until(lambda: f"{NAME} has 2 addresses as before" in caplog.text)

        assert broken.value("look_up_failures_total", host=NAME) >= 1
        assert broken.value("discovered_addresses", host=NAME) == 2


async def test_a_gateway_starts_before_its_servers(dns: DnsServer) -> None:
    """It is not ready, says when to come again, and serves once there is a server."""
    async with servers(1) as (fake,):
        settings = config(fake.port)
        async with (
            GatewayInProcess(settings, deployments=0, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            await until(lambda: dns.asked > 1)
            (await caller.post("/v1/embeddings", TEXT)).error(503)
            assert (await caller.get("/health/readiness")).status == 503
            assert (await caller.get("/health/liveness")).status == 200

            dns.zone[NAME] = [fake.host]
            await gateway.wait_up(1)
            assert (await caller.post("/v1/embeddings", TEXT)).status == 200
            assert (await caller.get("/health/readiness")).status == 200


async def test_models_behind_a_name_are_learned(dns: DnsServer) -> None:
    """Each server joins the pools of its models, and leaves them; a model without servers is unknown."""
    async with (
        servers(1) as (one,),
        FakeInfinity([FakeModel("other")], host="127.0.0.3", port=one.port) as two,
    ):
        content = {"gateway": {"discovery": {"dns": f"{NAME}:{one.port}", "refresh_s": 0.05}}}
        settings = parse(yaml.safe_dump(content), {})
        async with (
            GatewayInProcess(settings, deployments=0, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            (await caller.post("/v1/embeddings", TEXT)).error(503)
            dns.zone[NAME] = [one.host, two.host]
            await gateway.wait_up(2)
            assert deployments(gateway, "bert") == at(one)
            assert deployments(gateway, "other") == at(two)
            (await caller.post("/v1/embeddings", TEXT | {"model": "third"})).error(404)

            dns.zone[NAME] = [two.host]
            await until(lambda: [stats.model for stats in gateway.runtime.gateway.stats()] == ["other"])
            (await caller.post("/v1/embeddings", TEXT)).error(404)


async def test_models_on_one_name_have_pools_of_their_own(dns: DnsServer) -> None:
    """One look-up serves both, and a server that is listed as well is one."""
    async with servers(2, models=("bert", "other")) as fakes:
        dns.zone[NAME] = [fake.host for fake in fakes]
        place = {"discovery": {"dns": f"{NAME}:{fakes[0].port}"}}
        entries = [
            {"model_name": "bert", "litellm_params": {"model": "infinity/bert"}} | place,
            {"model_name": "other", "litellm_params": {"model": "infinity/other", "api_base": fakes[0].url}}
            | place,
        ]
        settings = config(0, FOREVER_S, model_list=entries)
        async with (
            GatewayInProcess(settings, deployments=4, names=dns.look_up) as gateway,
            Caller(gateway.url) as caller,
        ):
            assert deployments(gateway, "bert") == deployments(gateway, "other") == at(*fakes)
            for model in ("bert", "other"):
                assert (await caller.post("/v1/embeddings", TEXT | {"model": model})).status == 200

        assert dns.asked == 1


async def test_the_systems_resolver_is_asked() -> None:
    async with FakeInfinity([FakeModel("bert")]) as fake:
        entry = {"model_name": "bert", "litellm_params": {"model": "infinity/bert"}}
        place = {"dns": f"localhost:{fake.port}", "family": "ipv4"}
        settings = config(0, model_list=[entry | {"discovery": place}])
        async with GatewayInProcess(settings, deployments=1) as gateway, Caller(gateway.url) as caller:
            assert deployments(gateway) == at(fake)
            assert (await caller.post("/v1/embeddings", TEXT)).status == 200

    assert await look_up("127.0.0.1", "any") == ["127.0.0.1"]
    with pytest.raises(UnicodeError):
        await look_up("no..name", "any")

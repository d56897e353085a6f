"""A changed configuration counts while the gateway runs, or changes nothing and says why."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.caller import Caller
from tests.api.waiting import until
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.faults.load import Load
from tests.gateway_process import GatewayProcess

SERVICE = ServiceTime(l=0.001, o=0.002, a=0.0001)
EMBED = "/v1/embeddings"


class Mounted:
    """A ConfigMap as Kubernetes mounts it: the file is a link into a folder that is a link to the one that
    counts, and only that one is ever replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._version = 0
        self.file = folder / "gateway.yaml"

    def put(self, content: Any) -> None:
        self._version += 1
        version = self._folder / f"..{self._version}"
        version.mkdir()
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (version / self.file.name).write_text(text)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self._folder / "..data")
        if not self.file.is_symlink():
            self.file.symlink_to(f"..data/{self.file.name}")


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[FakeInfinity]]:
    models = [FakeModel("bert"), FakeModel("other")]
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeInfinity(models, service=SERVICE)) for _ in range(count)]


def model(name: str, *fakes: FakeInfinity, **params: Any) -> dict[str, Any]:
    bases = [fake.url for fake in fakes]
    return {
        "model_name": name,
        "litellm_params": {"model": f"infinity/{name}", "api_bases": bases} | params,
    }


def content(*models: dict[str, Any], **gateway: Any) -> dict[str, Any]:
    return {"model_list": list(models), "gateway": gateway}


def text_of(model: str = "bert", text: str = "one") -> dict[str, str]:
    return {"model": model, "input": text}


def events(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.output if line.startswith("{")]


async def told(gateway: GatewayProcess, event: str, count: int = 1) -> list[dict[str, Any]]:
    """The lines of that event, once there are so many."""

    def found() -> list[dict[str, Any]]:
        return [line for line in events(gateway) if line["event"] == event]

    await until(lambda: len(found()) >= count)
    return found()


@asynccontextmanager
async def started(mounted: Mounted, up: int) -> AsyncIterator[tuple[GatewayProcess, Caller]]:
    async with GatewayProcess(config=mounted.file) as gateway, Caller(gateway.url) as caller:
        await gateway.wait_ready(up)
        yield gateway, caller


@pytest.mark.proves("a server moves, by a changed configuration", caller="nothing")
async def test_a_server_moves_under_load(mounted: Mounted) -> None:
    """The file is swapped and nobody sends a signal. Who stays keeps what is known of it."""
    async with servers(3) as (stays, leaves, comes):
        mounted.put(content(model("bert", stays, leaves)))
        async with started(mounted, 2) as (gateway, caller):
            kept = f"127.0.0.1:{stays.port}"
            async with Load(
                gateway.url,
                lambda who, call: f"{who} {call}",
                lambda text: vector_of(text).tolist(),
                model="bert",
                callers=16,
            ) as load:
                await load.more(300)
                inspected = [request.path for request in stays.requests].count("/models")
                mounted.put(content(model("bert", stays, comes)))
                await told(gateway, "config_read")
                await until(lambda: len(comes.batches) > 5)
                await load.everybody()
                left = len(leaves.batches)
                await load.more(300)
            samples = await caller.samples()

        assert load.failures == []
        assert len(leaves.batches) == left
        assert [request.path for request in stays.requests].count("/models") == inspected
        shown = {dict(labels)["deployment"] for labels in samples.series("upstream_requests_total")}
        assert shown == {kept, f"127.0.0.1:{comes.port}"}
        assert samples.value("config_reload_success") == 1


@pytest.mark.proves("the only server of a model moves, by a changed configuration", caller="nothing")
async def test_the_only_server_moves_under_load(mounted: Mounted) -> None:
    """It works until the other does, which takes its time."""
    async with servers(2) as (old, new):
        gate = asyncio.Event()
        new.faults.append(Fault(delay=gate))
        mounted.put(content(model("bert", old)))
        async with (
            started(mounted, 1) as (gateway, _),
            Load(
                gateway.url,
                lambda who, call: f"{who} {call}",
                lambda text: vector_of(text).tolist(),
                model="bert",
                callers=8,
            ) as load,
        ):
            await load.more(50)
            mounted.put(content(model("bert", new)))
            gateway.signal(signal.SIGHUP)
            await told(gateway, "config_read")
            await load.everybody()
            gate.set()
            await told(gateway, "server_gone")
            await load.everybody()

        assert load.failures == []
        assert len(new.batches) > 5


async def test_a_model_leaves_and_another_comes(mounted: Mounted) -> None:
    """Who has asked before is answered; who asks then gets 404. In one step."""
    async with servers(2) as (one, two):
        mounted.put(content(model("bert", one)))
        async with started(mounted, 1) as (gateway, caller):
            gate = asyncio.Event()
            one.faults.append(Fault(delay=gate, when=lambda got: got.items == ["slow"]))
            begun = asyncio.create_task(caller.post(EMBED, text_of(text="slow")))
            await until(lambda: ["slow"] in one.batches)
            mounted.put(content(model("other", two)))
            gateway.signal(signal.SIGHUP)
            await told(gateway, "config_read")
            (await caller.post(EMBED, text_of())).error(404)
            gate.set()
            assert (await begun).vectors
            await told(gateway, "server_gone")
            await gateway.wait_ready(1)
            assert (await caller.post(EMBED, text_of("other"))).status == 200
            names = [each["id"] for each in (await caller.get("/v1/models")).body["data"]]
            assert names == ["other"]
            assert len((await caller.samples()).series("deployment_up")) == 1


BROKEN = [
    ("model_list: [", "not valid YAML"),
    ("model_list: []", "expected at least one infinity/ model"),
    ("gateway: {limits: {items_max: 0}}", "gateway.limits.items_max: expected a whole number above 0"),
    ("", "expected at least one infinity/ model"),
]


@pytest.mark.proves("the configuration is changed into a wrong one", caller="nothing: that of before is used")
async def test_a_broken_configuration_changes_nothing(mounted: Mounted) -> None:
    """Each is told once with what is wrong, and the next good one counts."""
    async with servers(1) as (fake,):
        mounted.put(content(model("bert", fake)))
        async with started(mounted, 1) as (gateway, caller):
            for number, (text, problem) in enumerate(BROKEN, 1):
                mounted.put(text)
                gateway.signal(signal.SIGHUP)
                refused = await told(gateway, "config_refused", number)
                assert problem in refused[-1]["problem"]
                assert (await caller.post(EMBED, text_of())).status == 200
            samples = await caller.samples()
            assert samples.value("config_reload_success") == 0
            assert samples.value("config_reload_failures_total") == len(BROKEN)

            mounted.put(content(model("bert", fake), limits={"items_max": 1}))
            gateway.signal(signal.SIGHUP)
            await told(gateway, "config_read")
            assert (await caller.samples()).value("config_reload_success") == 1
            (await caller.post(EMBED, {"model": "bert", "input": ["one", "two"]})).error(400)


async def test_all_settings_count_but_those_that_need_a_restart(mounted: Mounted) -> None:
    """Over connections that are there, too; what needs a restart is named, and stays."""
    async with servers(1) as (fake,):
        mounted.put(content(model("bert", fake), allow_anonymous=True))
        async with started(mounted, 1) as (gateway, caller):
            assert (await caller.post(EMBED, text_of())).status == 200
            inspected = [request.path for request in fake.requests].count("/models")
            changed = content(
                model("bert", fake, timeout=3),
                keys=[{"name": "ann", "key": "sk-ann"}],
                limits={"body_bytes_max": 1000},
                batching={"items_max": 3, "in_flight_max": 1},
                cache={"bytes_max": 1_000_000},
                open_routes=["metrics", "status"],
                telemetry=True,
            )
            changed["router_settings"] = {"model_group_alias": {"also": "bert"}}
            mounted.put(changed)
            gateway.signal(signal.SIGHUP)
            await told(gateway, "config_read")
            (needs,) = await told(gateway, "needs_restart")
            assert needs["setting"] == "gateway.telemetry"

            (await caller.post(EMBED, text_of())).error(401)
            key = {"Authorization": "Bearer sk-ann"}
            (await caller.post(EMBED, text_of(text="x" * 1000), **key)).error(413)
            for _ in range(2):
                assert (await caller.post(EMBED, text_of("also", "cached"), **key)).status == 200
            after = await caller.samples()
            assert after.value("cache_items_total", result="hit") == 1
            there = {"model": "bert", "deployment": f"127.0.0.1:{fake.port}"}
            assert after.value("deployment_concurrency_limit", **there) == 1
            status = (await caller.get("/status")).body
            assert status["gateway"]["id"]
            # One that joins anew would be asked what it serves.
            assert [request.path for request in fake.requests].count("/models") == inspected


async def test_a_signal_without_a_change_changes_nothing(mounted: Mounted) -> None:
    """Many at once, and while the process ends, too."""
    async with servers(1) as (fake,):
        mounted.put(content(model("bert", fake), drain={"grace_s": 0}))
        async with started(mounted, 1) as (gateway, caller):
            for _ in range(20):
                gateway.signal(signal.SIGHUP)
            (read, *_) = await told(gateway, "config_read")
            assert read["changed"] is False
            gate = asyncio.Event()
            fake.faults.append(Fault(delay=gate))
            begun = asyncio.create_task(caller.post(EMBED, text_of()))
            await fake.received(2)
            gateway.signal(signal.SIGTERM)
            await told(gateway, "draining")
            gateway.signal(signal.SIGHUP)
            gate.set()
            assert (await begun).status == 200
            gateway.signal(signal.SIGHUP)
            assert await gateway.wait() == 0

"""SIGTERM loses no call: what comes while an ingress takes notice is served; then the exit code is 0."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.api.caller import Caller
from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, score_of, vector_of
from tests.gateway_process import GatewayProcess


@asynccontextmanager
async def draining_gateway(
    fake: FakeInfinity, file: Path, **drain: Any
) -> AsyncIterator[tuple[GatewayProcess, Caller]]:
    content = {
        "model_list": [entry("bert", [fake.url]), entry("cross", [fake.url])],
        "gateway": {"drain": drain},
    }
    async with GatewayProcess(config=written(file, content)) as gateway, Caller(gateway.url) as caller:
        await gateway.wait_ready(2)
        yield gateway, caller


async def until_not_ready(caller: Caller) -> dict[str, Any]:
    async def is_so() -> bool:
        return (await caller.get("/health/readiness")).status != 200

    await until(is_so)
    reply = await caller.get("/health/readiness")
    assert reply.status == 503
    return dict(json.loads(reply.raw))


async def test_calls_are_served_while_readiness_fails(config_file: Path) -> None:
    """For the grace time: those under way, and those that still come. Then the exit code is 0."""
    gate = asyncio.Event()
    async with FakeInfinity() as fake, draining_gateway(fake, config_file, grace_s=1) as (gateway, caller):
        fake.requests.clear()
        fake.faults.append(Fault(delay=gate, when=contains("held")))
        under_way = [asyncio.create_task(caller.embed(f"held {i}")) for i in range(20)]
        await fake.received(1)

        gateway.signal(signal.SIGTERM)
        status = await until_not_ready(caller)
        alive = await caller.get("/health/liveness")
        late = await caller.rerank("q", ["late"])
        gate.set()
        replies = await asyncio.gather(*under_way)
        code = await gateway.wait()

    assert status == {"status": "draining"}
    assert alive.status == 200
    assert late.ranking == [(0, score_of("q", "late"))]
    assert late.headers["Connection"] == "close"
    assert [reply.vectors[0] for reply in replies] == [vector_of(f"held {i}").tolist() for i in range(20)]
    assert {reply.headers["Connection"] for reply in replies} == {"close"}
    assert code == 0
    assert not any("Traceback" in line or "ERROR" in line for line in gateway.output)


async def test_every_answer_closes_its_connection_then(config_file: Path) -> None:
    """Lists and health too: an ingress that keeps a connection would send the next call into the void."""
    async with FakeInfinity() as fake, draining_gateway(fake, config_file, grace_s=30) as (gateway, caller):
        gateway.signal(signal.SIGTERM)
        await until_not_ready(caller)

        replies = {
            path: await caller.get(path) for path in ("/v1/models", "/health/readiness", "/metrics", "/no")
        }
        gateway.signal(signal.SIGINT)
        code = await gateway.wait()

    assert {path: reply.headers.get("Connection") for path, reply in replies.items()} == dict.fromkeys(
        replies, "close"
    )
    assert code == 0


@pytest.mark.proves(
    "SIGTERM to the gateway under load",
    caller="answers with `Connection: close` for the whole grace time, then a refused connection",
)
async def test_under_load_no_call_is_lost(config_file: Path) -> None:
    """32 callers, one call after another: for the whole grace time each is answered, and then refused."""
    grace_s, loop = 1.0, asyncio.get_running_loop()
    answered, refused_at = 0, list[float]()

    async def call_until_refused(gateway: GatewayProcess, number: int) -> None:
        nonlocal answered
        async with aiohttp.ClientSession(gateway.url) as session:
            while True:
                body = {"model": "bert", "input": f"{number} {answered}"}
                try:
                    async with session.post("/v1/embeddings", json=body) as reply:
                        assert reply.status == 200, await reply.text()
                        answered += 1
                except aiohttp.ClientConnectionError:
                    # Refused, or reset: that is what the kernel makes of a connection which it has taken
                    # for a listener that is gone.
                    refused_at.append(loop.time())
                    return

    async with (
        FakeInfinity() as fake,
        draining_gateway(fake, config_file, grace_s=grace_s) as (gateway, _),
        asyncio.TaskGroup() as callers,
        asyncio.timeout(30),
    ):
        for number in range(32):
            callers.create_task(call_until_refused(gateway, number))
        await fake.received(50)
        told_at = loop.time()
        gateway.signal(signal.SIGTERM)
        code = await gateway.wait()

    assert min(refused_at) - told_at >= grace_s
    assert len(refused_at) == 32
    assert answered > 32
    assert code == 0


async def test_without_grace_what_is_under_way_is_answered(config_file: Path) -> None:
    """SIGINT, a person at a terminal: no new connections, and an end as soon as nothing is under way."""
    gate = asyncio.Event()
    async with FakeInfinity() as fake, draining_gateway(fake, config_file, grace_s=60) as (gateway, caller):
        fake.requests.clear()
        fake.faults.append(Fault(delay=gate))
        under_way = asyncio.create_task(caller.embed("held"))
        await fake.received(1)

        gateway.signal(signal.SIGINT)
        await until(lambda: refuses(gateway.url))
        gate.set()
        reply = await under_way
        code = await gateway.wait()

    assert reply.vectors == [vector_of("held").tolist()]
    assert code == 0


async def refuses(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    except (ConnectionRefusedError, ConnectionResetError):
        return True  # Reset: the kernel had taken the connection for a listener that was about to go.
    writer.close()
    return False


async def test_a_call_that_never_ends_does_not_keep_the_process(config_file: Path) -> None:
    """After the limit its caller is told, and the process ends in order."""
    async with (
        FakeInfinity() as fake,
        draining_gateway(fake, config_file, grace_s=0, in_flight_s_max=1) as (gateway, caller),
    ):
        fake.requests.clear()
        fake.faults.append(Fault(hang=True))
        hanging = asyncio.create_task(caller.embed("hanging"))
        await fake.received(1)

        gateway.signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            code = await gateway.wait()
        reply = await hanging

    assert reply.error(503)
    assert code == 0
    assert not any("Traceback" in line for line in gateway.output)


async def test_a_second_signal_ends_at_once(config_file: Path) -> None:
    """Whoever asks twice does not want to wait for the grace time, nor for calls."""
    async with (
        FakeInfinity() as fake,
        draining_gateway(fake, config_file, grace_s=60, in_flight_s_max=60) as (gateway, caller),
    ):
        fake.requests.clear()
        fake.faults.append(Fault(hang=True))
        hanging = asyncio.create_task(caller.embed("hanging"))
        await fake.received(1)

        gateway.signal(signal.SIGTERM)
        await until_not_ready(caller)
        gateway.signal(signal.SIGTERM)
        await until(lambda: refuses(gateway.url))
        gateway.signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            code = await gateway.wait()
        await asyncio.wait([hanging])
        hanging.exception()

    assert code == 0

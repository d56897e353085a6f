"""Real Infinity servers whose worker dies: requests hang, `/health` says 200, in the end everything is 429.

An image that breaks off kills it: Infinity opens images lazily, and reads the pixels in the worker.
"""

import asyncio
import base64
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

import aiohttp
import pytest

from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller
from tests.api.media import orange
from tests.api.waiting import until
from tests.faults.conftest import FrontOf, all_started, name_of
from tests.faults.load import Load
from tests.faults.test_processes import assert_no_more_work, assert_nothing_is_left
from tests.real_infinity import RealInfinity, ServedModel, model_dir

QUEUE_SIZE = 64
"""As small as INFINITY_QUEUE_SIZE may be to be full soon; its default is 32,000."""
TIMEOUT_S = LimitsSettings().timeout_s
TEXTS = [f"text {i} " + "word " * (i % 7) for i in range(100)]

Vectors = Mapping[str, list[float]]


@pytest.fixture(scope="module")
def pair() -> Iterator[list[RealInfinity]]:
    """Two servers of a model for texts and images. The first loses its worker in the first test."""
    models = [ServedModel("clip", model_dir("clip"))]
    servers = [RealInfinity(models, env={"INFINITY_QUEUE_SIZE": str(QUEUE_SIZE)}) for _ in range(2)]
    with all_started(servers):
        yield servers


async def kill_worker(server: RealInfinity) -> None:
    """As somebody else may do who calls it directly. There is no answer to wait for."""
    head, _, data = orange(64).partition(",")
    whole = base64.b64decode(data)
    cut = base64.b64encode(whole[: whole.index(b"IDAT") + 12]).decode()
    body = {"model": "clip", "input": [f"{head},{cut}"], "modality": "image"}
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=1)) as session:
        with pytest.raises(TimeoutError):
            await session.post("/embeddings", json=body)


async def is_healthy(server: RealInfinity) -> bool:
    async with aiohttp.ClientSession(server.url) as session, session.get("/health") as reply:
        return reply.status == 200


async def fill_queue(server: RealInfinity) -> None:
    """Ask until it says 429, which it then says to everybody for ever."""
    body = {"model": "clip", "input": ["one"] * QUEUE_SIZE}
    async with AsyncExitStack() as held:
        session = await held.enter_async_context(aiohttp.ClientSession(server.url))
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(status_of(session, body)) for _ in range(30)]
            await until(lambda: any(task.done() and task.result() == 429 for task in asking))
            for task in asking:
                task.cancel()


async def status_of(session: aiohttp.ClientSession, body: object) -> int:
    async with session.post("/embeddings", json=body) as reply:
        return reply.status


async def vectors_of(server: RealInfinity) -> Vectors:
    async with Caller(server.url) as direct:
        reply = await direct.post("/embeddings", {"model": "clip", "input": TEXTS})
    return dict(zip(TEXTS, reply.vectors, strict=True))


@pytest.mark.proves(
    "Infinity's worker dies under load: requests hang, `/health` says 200, then everything is 429 for ever",
    caller="nothing: what hangs is answered by another server within the default time limit, "
    "and the dead one gets no more work",
)
async def test_a_server_whose_worker_died_is_found_by_traffic(
    pair: list[RealInfinity], front_of: FrontOf
) -> None:
    """Of all servers it has the least to do, and must not get all the work for that."""
    victim, other = pair
    vectors = await vectors_of(other)
    name = name_of(victim.url)
    async with front_of("clip", [server.url for server in pair]) as (gateway, caller):
        load = Load(
            gateway.url,
            lambda number, call: TEXTS[(number + 7 * call) % len(TEXTS)],
            vectors.__getitem__,
            model="clip",
            callers=50,
        )
        async with load:
            await load.everybody()
            await kill_worker(victim)
            await caller.samples_when("deployment_up", 1, within_s=TIMEOUT_S)
            await load.everybody()
            await assert_no_more_work(caller, victim, load)

            assert await is_healthy(victim)
            await fill_queue(victim)
            await load.more(500)
        samples = await caller.samples()
        await assert_nothing_is_left(caller)

    assert load.failures == []
    assert load.longest_s < TIMEOUT_S
    assert samples.total("deployment_up", deployment=name) == 0


@pytest.mark.proves(
    "Infinity's worker dies while nobody calls",
    caller="nothing: a call of the gateway's own is not answered, and the server gets no call of theirs",
)
async def test_a_server_whose_worker_died_is_found_by_the_canary(
    pair: list[RealInfinity], front_of: FrontOf
) -> None:
    """Its health route would never tell. Before the first call the gateway knows that none is up."""
    _, server = pair
    health = {"silent_s_max": 0.5, "probe_timeout_s": 2}
    async with front_of("clip", [server.url], health=health) as (_, caller):
        await kill_worker(server)
        assert await is_healthy(server)

        await caller.samples_when("deployment_up", 0)
        before = await caller.samples()
        reply = await caller.embed("one", "clip")
        after = await caller.samples()

    assert reply.error(503)
    assert after.total("upstream_requests_total") == before.total("upstream_requests_total")

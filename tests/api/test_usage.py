"""Every caller is charged what a call of its own would have been, in whatever company it was served."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from gateway.core.settings import BatchingSettings
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pools_of
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

TEXTS = [
    *("one", " padded ", "", "\u2003\u3000", "🙂🙂", "a\x1c", "žluťoučký kůň", "word " * 50),
    *("ประเทศ", "a", "\u200b", "two words"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One that sends a single batch at a time, so that what comes meanwhile shares the next."""
    settings = config(*pools_of(shared_fake), batching=BatchingSettings(in_flight_max=1))
    async with GatewayInProcess(settings) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct(shared_fake: FakeInfinity) -> AsyncIterator[Caller]:
    """Calls the server itself."""
    async with Caller(shared_fake.url) as caller:
        yield caller


async def charged(caller: Caller, path: str, body: object) -> int:
    reply = await caller.post(path, body)
    assert reply.status == 200, reply.raw
    usage = reply.body["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"]
    return int(usage["total_tokens"])


def _items_of(body: dict[str, object]) -> str:
    return "documents" if "documents" in body else "input"


async def charged_together(
    caller: Caller, fake: FakeInfinity, path: str, bodies: list[dict[str, object]]
) -> list[int]:
    """What each is charged when nearly all of them share a batch, which is asserted."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate, times=1))
    async with asyncio.TaskGroup() as calls:
        calls.create_task(charged(caller, path, {**bodies[0], _items_of(bodies[0]): ["held"]}))
        await fake.received(1)
        rest = [calls.create_task(charged(caller, path, body)) for body in (*bodies, bodies[0])]
        await caller.samples_when("queued_items", len(rest))
        gate.set()
    assert max(map(len, fake.batches)) >= 10
    assert rest[-1].result() == rest[0].result(), "what was asked for already is charged all the same"
    del rest[-1]
    fake.requests.clear()
    return [call.result() for call in rest]


async def test_texts_are_charged_as_if_alone(caller: Caller, direct: Caller, fake: FakeInfinity) -> None:
    """By characters, counted as Infinity counts them: white space around a text is none of it."""
    bodies: list[dict[str, object]] = [{"model": "bert", "input": [text]} for text in TEXTS]

    together = await charged_together(caller, fake, "/embeddings", bodies)

    assert together == [await charged(direct, "/embeddings", body) for body in bodies]


async def test_documents_are_charged_with_their_query(
    caller: Caller, direct: Caller, fake: FakeInfinity
) -> None:
    """The query counts once for each document, for every caller who shares it."""
    bodies: list[dict[str, object]] = [
        {"model": "cross", "query": " what? ", "documents": [text]} for text in TEXTS
    ]

    together = await charged_together(caller, fake, "/rerank", bodies)

    assert together == [await charged(direct, "/rerank", body) for body in bodies]


async def test_classified_texts_are_charged_as_if_alone(
    caller: Caller, direct: Caller, fake: FakeInfinity
) -> None:
    """As texts that are embedded."""
    bodies: list[dict[str, object]] = [{"model": "classifier", "input": [text]} for text in TEXTS]

    together = await charged_together(caller, fake, "/classify", bodies)

    assert together == [await charged(direct, "/classify", body) for body in bodies]


async def test_a_large_call_is_charged_the_sum_of_its_batches(
    caller: Caller, direct: Caller, fake: FakeInfinity
) -> None:
    """Divided among many, it costs what it would have cost whole."""
    body = {"model": "bert", "input": [f"{text} {i}" for i, text in enumerate(TEXTS * 20)]}

    assert await charged(caller, "/embeddings", body) == await charged(direct, "/embeddings", body)


async def test_what_a_server_counts_in_tokens_is_shared_out_whole(
    caller: Caller, direct: Caller, fake: FakeInfinity
) -> None:
    """It tells one number for a batch; the parts add up to it, and nobody pays for a stranger's long text."""
    bodies: list[dict[str, object]] = [{"model": "bert-tokens", "input": [text]} for text in TEXTS]

    together = await charged_together(caller, fake, "/embeddings", bodies)

    alone = [await charged(direct, "/embeddings", body) for body in bodies]
    assert sum(together) == sum(alone)
    assert max(together) == together[TEXTS.index("word " * 50)]
    assert min(together) >= 0


async def test_tokens_of_a_call_alone_are_the_servers_count(
    caller: Caller, direct: Caller, fake: FakeInfinity
) -> None:
    """Without company there is nothing to share out, however many batches it takes."""
    body = {"model": "bert-tokens", "input": [f"{text} {i}" for i, text in enumerate(TEXTS * 20)]}

    assert await charged(caller, "/embeddings", body) == await charged(direct, "/embeddings", body)

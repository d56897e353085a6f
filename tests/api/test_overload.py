"""Three times as many calls as the servers can answer, on real sockets."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from gateway.core.settings import RouterSettings
from tests.api.caller import Caller, Reply
from tests.api.configs import config, pool
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.gateway_in_process import GatewayInProcess

SERVICE = ServiceTime(o=0.08, a=0.005)
CAPACITY = 32 / SERVICE.busy_s([1] * 32, 32)
"""Texts a second of one server."""
WITHIN_S = 1.0
LASTS_S = 4.0
SOON_S = 0.5
"""A caller and a gateway share a core here with two servers."""


class Ended(NamedTuple):
    reply: Reply
    took_s: float


async def open_loop(count: int, lasts_s: float, call: Callable[[int], Awaitable[Reply]]) -> list[Ended]:
    """So many calls, evenly over that time, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    calls: list[asyncio.Task[Ended]] = []
    all_sent = asyncio.Event()

    async def one(number: int) -> Ended:
        since = loop.time()
        reply = await call(number)
        return Ended(reply, loop.time() - since)

    def send() -> None:
        while len(calls) < count and began + len(calls) * lasts_s / count <= loop.time():
            calls.append(loop.create_task(one(len(calls))))
        if len(calls) < count:
            loop.call_at(began + len(calls) * lasts_s / count, send)
        else:
            all_sent.set()

    send()
    await all_sent.wait()
    return await asyncio.gather(*calls)


async def acquaint(caller: Caller) -> None:
    """Calls of all sizes, so that it is known how long they take."""
    for size in (1, 4, 8, 16, 32, 2, 24, 12):
        assert (await caller.embed([f"acquaints {size} {i}" for i in range(size)])).status == 200


@pytest.mark.proves(
    "three times more calls than the servers can answer, and on",
    caller="who can be answered in time, is; the others get 429 with Retry-After at once",
)
async def test_three_times_more_than_can_be_done() -> None:
    """The servers go on at full speed, and for callers who still wait."""
    async with (
        FakeInfinity([FakeModel("bert")], service=SERVICE) as one,
        FakeInfinity([FakeModel("bert")], service=SERVICE) as other,
        GatewayInProcess(config(pool("bert", one, other))) as gateway,
        Caller(gateway.url, x_request_timeout=str(WITHIN_S)) as caller,
    ):
        for _ in range(2):
            await acquaint(caller)
        rate = 3 * 2 * CAPACITY
        ended = await open_loop(int(rate * LASTS_S), LASTS_S, lambda i: caller.embed(f"text {i}"))
        samples = await caller.samples()

    answered = [each for each in ended if each.reply.status == 200]
    refused = [each for each in ended if each.reply.status == 429]
    late = len(ended) - len(answered) - len(refused)
    for number, each in enumerate(ended):
        if each.reply.status == 200:
            assert each.reply.vectors == [vector_of(f"text {number}").tolist()]
    # Roughly, since all of it shares one machine here; tests/pool/test_overload.py has the figures.
    assert len(answered) >= 0.25 * 2 * CAPACITY * LASTS_S
    assert len(answered) > late
    assert all(int(each.reply.headers["Retry-After"]) >= 1 for each in refused)
    assert sorted(each.took_s for each in refused)[len(refused) // 2] < SOON_S
    assert samples.value("rejected_total", reason="overloaded") == len(refused)


async def test_a_fallback_takes_what_would_come_too_late() -> None:
    """Nobody is refused who can be answered by another model."""
    router = RouterSettings(fallbacks={"bert": ("small",)})
    async with (
        FakeInfinity([FakeModel("bert")], service=SERVICE) as slow,
        FakeInfinity([FakeModel("bert", seed="small")]) as small,
        GatewayInProcess(
            config(pool("bert", slow), pool("small", small, model="bert"), router=router)
        ) as gateway,
        Caller(gateway.url, x_request_timeout=str(WITHIN_S)) as caller,
    ):
        await acquaint(caller)
        texts = [[f"{number} {i}" for i in range(32)] for number in range(20)]
        replies = await asyncio.gather(*map(caller.embed, texts))
        samples = await caller.samples()

    # Where the machine is busy, the first may take longer than was thought.
    assert {reply.status for reply in replies} <= {200, 504}
    by = Counter(reply.body["model"] for reply in replies if reply.status == 200)
    assert by["small"] > len(replies) / 2
    for reply, given in zip(replies, texts, strict=True):
        if reply.status == 200:
            seed = "small" if reply.body["model"] == "small" else ""
            assert reply.vectors == [vector_of(text, seed=seed).tolist() for text in given]
    assert samples.value("fallbacks_total") == by["small"]

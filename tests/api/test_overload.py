"""More calls than a server can answer in time, where another model may answer them."""

import asyncio
from collections import Counter

from gateway.core.settings import RouterSettings
from tests.api.caller import Caller
from tests.api.configs import config, pool
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime, vector_of
from tests.gateway_in_process import GatewayInProcess

SERVICE = ServiceTime(o=0.08, a=0.005)
WITHIN_S = 1.0


async def acquaint(caller: Caller) -> None:
    """Calls of all sizes, so that it is known how long they take."""
    for size in (1, 4, 8, 16, 32, 2, 24, 12):
        assert (await caller.embed([f"acquaints {size} {i}" for i in range(size)])).status == 200


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

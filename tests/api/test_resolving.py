"""Which model is meant is decided anew when a server comes, goes, or tells something else."""

from tests.api.caller import Caller
from tests.api.configs import config, pool
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess


async def test_a_second_model_ends_calls_that_name_none() -> None:
    """What was decided while there was one model is not kept when there are two."""
    async with FakeInfinity() as first, FakeInfinity() as second:
        await second.stop()
        settings = config(pool("bert", first), pool("deberta", second, model="bert"))
        async with GatewayInProcess(settings, deployments=1) as gateway, Caller(gateway.url) as caller:
            alone = [await caller.embed("one", None) for _ in range(3)]
            await second.start()
            await gateway.wait_up(2)
            both = await caller.embed("one", None)
            named = await caller.embed("one", "deberta")

    assert [reply.body["model"] for reply in alone] == ["bert"] * 3
    assert "name a model: several can embed text" in both.error(400)
    assert named.body["model"] == "deberta"

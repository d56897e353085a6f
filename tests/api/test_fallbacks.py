"""Models that stand in for one that cannot answer."""

from typing import Any

import pytest

from gateway.core.settings import DeploymentSettings, RouterSettings
from tests.api.caller import Caller
from tests.api.configs import config, pool
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, vector_of
from tests.gateway_in_process import GatewayInProcess

TO_SMALL = RouterSettings(fallbacks={"bert": ("small", "smaller")})


def falling_back(fake: FakeInfinity, other: FakeInfinity) -> Any:
    pools = [pool("bert", fake), pool("small", other, model="bert"), pool("smaller", other, model="clip")]
    return config(*pools, router=TO_SMALL)


@pytest.mark.proves(
    "No server of a model answers well, and a fallback is configured",
    caller="the fallback model's answer, whose `model` says so",
)
@pytest.mark.parametrize("break_it", ["stop", "500", "count"])
async def test_another_model_stands_in(break_it: str) -> None:
    """When the one that was meant cannot answer; the answer says who gave it."""
    async with (
        FakeInfinity() as fake,
        FakeInfinity([FakeModel("bert", seed="other"), FakeModel("clip")]) as other,
        GatewayInProcess(falling_back(fake, other)) as gateway,
        Caller(gateway.url) as caller,
    ):
        if break_it == "stop":
            await fake.stop()
        else:
            fake.faults.append(Fault(status=500) if break_it == "500" else Fault(edit=faults.fewer))
        reply = await caller.embed(["one", "two"])
        samples = await caller.samples()

    assert reply.vectors == [vector_of(text, seed="other").tolist() for text in ("one", "two")]
    assert reply.body["model"] == "small"
    assert samples.value("fallbacks_total") == 1
    assert samples.value("requests_total", route="/v1/embeddings", model="small", status=200) == 1


async def test_a_mistake_of_the_caller_needs_no_other_model() -> None:
    """Nor does a time limit: whoever has no time left has none for another model."""
    async with (
        FakeInfinity() as fake,
        FakeInfinity() as other,
        GatewayInProcess(falling_back(fake, other)) as gateway,
        Caller(gateway.url) as caller,
    ):
        other.requests.clear()
        fake.faults.append(Fault(status=422, times=1))
        mistake = await caller.embed("one")
        fake.faults.append(Fault(hang=True))
        late = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, x_request_timeout="0.1")

    assert mistake.error(400)
    assert late.error(504)
    assert other.asked == []


async def test_when_all_stand_ins_fail_the_first_error_is_told() -> None:
    """The one of the model that was asked for."""
    async with (
        FakeInfinity() as fake,
        FakeInfinity() as other,
        GatewayInProcess(falling_back(fake, other)) as gateway,
        Caller(gateway.url) as caller,
    ):
        await fake.stop()
        other.faults.append(Fault(status=500))
        reply = await caller.embed("one")

    assert "'bert'" in reply.error(503)


async def test_a_stand_in_that_nobody_serves_is_passed_over() -> None:
    """Where models are learned from servers, one that is named may not have come yet."""
    router = RouterSettings(fallbacks={"bert": ("not-there", "clip")})
    async with FakeInfinity() as fake:
        learned = (DeploymentSettings("a", fake.url),)
        settings = config(router=router, servers=learned)
        async with GatewayInProcess(settings, deployments=8) as gateway, Caller(gateway.url) as caller:
            fake.faults.append(Fault(status=500, when=lambda request: request.body.get("model") == "bert"))
            reply = await caller.embed("one")

    assert reply.status == 200
    assert reply.body["model"] == "clip"

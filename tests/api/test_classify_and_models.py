"""`POST /classify` as Infinity has it, and the list of models."""

import asyncio
import json
import time
from functools import partial

import pytest

from gateway.core.settings import RouterSettings, Secret
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pool, pools_of
from tests.api.waiting import until
from tests.fakes.faults import posted
from tests.fakes.infinity import FakeInfinity, Fault, classes_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
async def test_classes_come_in_infinitys_shape(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """The labels of every text, best first, as the server gave them."""
    reply = await caller.post(
        path, {"model": "classifier", "input": ["a dog", " weather "]}, x_request_id="abc"
    )

    assert reply.status == 200
    assert reply.body.keys() == {"object", "data", "model", "usage", "id", "created"}
    assert (reply.body["object"], reply.body["model"], reply.body["id"]) == (
        "classify",
        "classifier",
        "infinity-abc",
    )
    assert reply.body["data"] == [classes_of("a dog"), classes_of("weather")]
    assert reply.body["usage"] == {"prompt_tokens": 12, "total_tokens": 12}


async def test_many_texts_are_classified_in_order(caller: Caller, fake: FakeInfinity) -> None:
    """Over several batches, since there is no index to go by."""
    texts = [f"text {i}" for i in range(100)]

    reply = await caller.classify(texts)

    assert reply.body["data"] == [classes_of(text) for text in texts]
    assert len(fake.batches) == 4


async def test_parameters_of_a_classification_reach_the_server(caller: Caller, fake: FakeInfinity) -> None:
    """Infinity has raw_scores there too, although it has no effect."""
    await caller.classify(["a"], raw_scores=True)

    assert fake.posts[0].body == {"model": "classifier", "input": ["a"], "raw_scores": True}


@pytest.mark.parametrize("text", ["a dog", 1, None, {}])
async def test_only_lists_are_classified(caller: Caller, fake: FakeInfinity, text: object) -> None:
    """As Infinity has it: a single string is no list there."""
    assert "list of strings" in (await caller.classify(text)).error(400)
    assert fake.asked == []


@pytest.mark.parametrize("path", ["/models", "/v1/models"])
async def test_models_are_listed_as_openai_does(caller: Caller, path: str) -> None:
    """With what each can do, and owned by infinity, on which Infinity's own client insists."""
    reply = await caller.get(path)

    assert reply.status == 200
    assert reply.body.keys() == {"object", "data"}
    assert reply.body["object"] == "list"
    for model in reply.body["data"]:
        assert model.keys() >= {"id", "object", "created", "owned_by", "capabilities"}
        assert model["stats"]["batch_size"] == 32  # Infinity's own client insists on stats, too
        assert (model["object"], model["owned_by"]) == ("model", "infinity")
        assert time.time() - 300 < model["created"] <= time.time()
    assert {model["id"]: model["capabilities"] for model in reply.body["data"]} == {
        "bert": ["embed"],
        "cross": ["rerank"],
        "classifier": ["classify"],
        "clip": ["embed", "image_embed"],
        "clap": ["audio_embed", "embed"],
        "colbert": ["embed"],
        "bert-tokens": ["embed"],
        "bert-bits": ["embed"],
    }


async def test_aliases_are_names_like_all_others() -> None:
    """They are listed, they answer, and the answer carries the name that was asked for."""
    fake = FakeInfinity()
    router = RouterSettings(aliases={"text-embedding-3-small": "bert"})
    async with (
        fake,
        GatewayInProcess(config(pool("bert", fake), router=router)) as gateway,
        Caller(gateway.url) as caller,
    ):
        listed = await caller.get("/v1/models")
        reply = await caller.embed("one", "text-embedding-3-small")

    assert [model["id"] for model in listed.body["data"]] == ["bert", "text-embedding-3-small"]
    assert reply.body["model"] == "text-embedding-3-small"
    assert fake.posts[-1].body["model"] == "bert"


async def test_a_model_with_no_server_up_is_listed_all_the_same() -> None:
    """It is configured, and its servers will come."""
    fake = FakeInfinity()
    async with fake:
        await fake.stop()
        async with (
            GatewayInProcess(config(pool("bert", fake)), deployments=0) as gateway,
            Caller(gateway.url) as caller,
        ):
            listed = await caller.get("/models")

    assert [model["id"] for model in listed.body["data"]] == ["bert"]


# Health


@pytest.mark.parametrize("path", ["/health", "/health/liveliness", "/health/liveness", "/health/readiness"])
async def test_health_answers_while_servers_are_up(caller: Caller, path: str) -> None:
    """With 200 and JSON."""
    reply = await caller.get(path)

    assert reply.status == 200
    assert reply.body


async def test_readiness_waits_for_the_first_server_and_then_stays() -> None:
    """One outage of the servers must not take every gateway out of service; liveness knows no servers."""
    fake = FakeInfinity()
    async with fake:
        await fake.stop()
        async with (
            GatewayInProcess(config(*pools_of(fake)), deployments=0) as gateway,
            Caller(gateway.url) as caller,
        ):
            before = await caller.get("/health/readiness")
            alive = await caller.get("/health/liveness")
            await fake.start()
            await gateway.wait_up(len(fake.models))
            between = await caller.get("/health/readiness")
            await fake.stop()
            await caller.embed("one")
            after = await caller.get("/health/readiness")

    assert (before.status, alive.status, between.status, after.status) == (503, 200, 200, 200)
    assert "no server has answered" in json.loads(before.raw)["status"]


async def test_readiness_waits_until_each_model_was_asked_for() -> None:
    """Whoever calls as soon as it is ready must not hear that a model has no server."""
    answering = asyncio.Event()
    async with FakeInfinity() as fake:
        fake.faults.append(
            Fault(delay=answering, when=lambda sent: posted(sent) and sent.body["model"] == "bert")
        )
        async with (
            GatewayInProcess(config(*pools_of(fake)), deployments=len(fake.models) - 1) as gateway,
            Caller(gateway.url) as caller,
        ):
            before = await caller.get("/health/readiness")
            answering.set()
            await until(partial(is_ready, caller))
            reply = await caller.embed("one", "bert")

    assert before.status == 503
    assert "not for every model" in json.loads(before.raw)["status"]
    assert reply.status == 200


async def is_ready(caller: Caller) -> bool:
    return (await caller.get("/health/readiness")).status == 200


async def test_status_tells_of_every_server() -> None:
    """State, reason and load of each, and no secret."""
    up, locked = FakeInfinity(), FakeInfinity(api_key="another")
    async with up, locked:
        settings = config(pool("bert", up, locked), master_key=Secret("sk-master"))
        async with (
            GatewayInProcess(settings, deployments=1) as gateway,
            Caller(gateway.url, Authorization="Bearer sk-master") as caller,
        ):
            reply = await caller.get("/status")
            async with asyncio.timeout(10):
                while "does not accept" not in reply.raw.decode():
                    reply = await caller.get("/status")

    [model] = reply.body["models"]
    states = {deployment["name"]: deployment["state"] for deployment in model["deployments"]}
    assert (reply.body["ready"], model["model"]) == (True, "bert")
    assert states == {f"127.0.0.1:{up.port}": "up", f"127.0.0.1:{locked.port}": "starting"}
    assert "sk-master" not in reply.raw.decode()

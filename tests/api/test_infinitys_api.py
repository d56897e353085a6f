"""Below /infinity the gateway is an Infinity. tests/parity compares it with a real one; here is what that
cannot show: keys, load, servers that fail, and servers with a single model.
"""

from typing import Any

import pytest

from gateway.core.settings import AdmissionSettings, DeploymentSettings, LimitsSettings, Secret
from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED, config, pool, pools_of
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

POSTS: dict[str, dict[str, Any]] = {
    "/embeddings": {"model": "bert", "input": ["one"]},
    "/rerank": {"model": "cross", "query": "q", "documents": ["a", "b"]},
    "/classify": {"model": "classifier", "input": ["one"]},
}
BASES = ["/infinity", "/infinity/v1"]


def told(reply: Reply, status: int) -> str:
    """The message of an error in Infinity's shape."""
    assert reply.status == status, reply.raw
    error = reply.body["error"]
    assert error == {"message": error["message"], "type": None, "param": None, "code": status}
    if status in (429, 503):
        assert int(reply.headers["Retry-After"]) >= 1
    return str(error["message"])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("path", POSTS)
async def test_answers_are_those_of_the_server(
    caller: Caller, fake: FakeInfinity, base: str, path: str
) -> None:
    """Compared with the stand-in's own."""
    async with Caller(fake.url) as direct:
        theirs = (await direct.post(path, POSTS[path])).body
    ours = (await caller.post(base + path, POSTS[path])).body

    assert ours["id"].startswith("infinity-")
    for body in (theirs, ours):
        del body["id"], body["created"]
    rows = "results" if path == "/rerank" else "data"
    if path == "/embeddings":
        assert ours["data"][0]["embedding"] == pytest.approx(theirs["data"][0]["embedding"])
        ours["data"][0]["embedding"] = theirs["data"][0]["embedding"]
    assert ours[rows]
    assert ours == theirs


@pytest.mark.parametrize(("echoes", "document"), [(True, "a"), (False, None)])
async def test_documents_are_strings_or_null(
    caller: Caller, fake: FakeInfinity, echoes: bool, document: str | None
) -> None:
    """Whoever asks, and after the white space is off."""
    body = {"model": "cross", "query": "q", "documents": [" a "], "return_documents": echoes}

    reply = await caller.post("/infinity/rerank", body)

    assert reply.body["results"][0]["document"] == document
    assert "meta" not in reply.body


@pytest.mark.parametrize("base", BASES)
async def test_models_are_listed_with_their_queues(caller: Caller, fake: FakeInfinity, base: str) -> None:
    """What infinity-client parses, which insists on `owned_by`."""
    async with Caller(fake.url) as direct:
        theirs = {model["id"]: model for model in (await direct.get("/models")).body["data"]}
    reply = await caller.get(f"{base}/models")

    assert reply.body["object"] == "list"
    assert [model["id"] for model in reply.body["data"]] == [model.name for model in fake.models]
    for model in reply.body["data"]:
        their = theirs[model["id"]]
        assert model.keys() == their.keys()
        assert model["stats"].keys() == their["stats"].keys()
        assert (model["owned_by"], model["backend"]) == ("infinity", their["backend"])
        assert model["stats"]["batch_size"] == their["stats"]["batch_size"]
        assert set(model["capabilities"]) == set(their["capabilities"])


@pytest.mark.parametrize("base", BASES)
async def test_health_is_the_time(caller: Caller, fake: FakeInfinity, base: str) -> None:
    assert isinstance((await caller.get(f"{base}/health")).body["unix"], float)


async def test_a_key_is_asked_for_as_infinity_does(shared_fake: FakeInfinity) -> None:
    """On all routes but health; the key of OpenAI's Azure client is taken too."""
    settings = config(*pools_of(shared_fake), master_key=Secret("sk-key"))
    async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
        refused = [await caller.post(f"/infinity{path}", body) for path, body in POSTS.items()]
        refused += [await caller.get("/infinity/models"), await caller.get("/infinity/v1/models")]
        healthy = await caller.get("/infinity/health")
        let_in = await caller.get("/infinity/models", Authorization="Bearer sk-key")
        info = await caller.get("/model/info")

    for reply in refused:
        assert (reply.status, reply.body) == (401, {"detail": "Unauthorized"})
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert (healthy.status, let_in.status) == (200, 200)
    assert info.error(401)


@pytest.mark.parametrize("name", ["none", "", "default/not-specified", None])
async def test_a_single_model_answers_to_every_name(name: str | None) -> None:
    """As on a server with one model; `model` in the answer says which."""
    named = {} if name is None else {"model": name}
    async with (
        FakeInfinity([FakeModel("bert")]) as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        reply = await caller.post("/infinity/embeddings", {"input": "one", **named})
        cannot = await caller.post("/infinity/classify", {"input": ["one"], **named})

    assert reply.vectors == [vector_of("one").tolist()]
    assert reply.body["model"] == "bert"
    assert "ModelNotDeployedError" in told(cannot, 400)


async def test_one_of_several_models_must_be_meant(caller: Caller, fake: FakeInfinity) -> None:
    """400, where the other routes say 404."""
    reply = await caller.post("/infinity/embeddings", {"model": "none", "input": "one"})

    names = [model.name for model in fake.models]
    assert told(reply, 400) == (
        f"Invalid model: Engine for model name `none` not found. Available model names are {names}"
    )


async def test_a_pool_that_is_not_yet_known_is_not_replaced() -> None:
    """While a server has not told its models, a name may be one of theirs: vectors are never mixed."""
    async with FakeInfinity([FakeModel("bert")]) as fake, FakeInfinity([FakeModel("other")]) as silent:
        silent.faults.append(Fault(hang=True, when=lambda _: True))
        servers = (DeploymentSettings("silent", silent.url, None),)
        gateway = GatewayInProcess(config(pool("bert", fake), servers=servers), deployments=1)
        async with gateway, Caller(gateway.url) as caller:
            reply = await caller.post("/infinity/embeddings", {"model": "other", "input": "one"})

    assert "not every server has told its models" in told(reply, 503)


@pytest.mark.parametrize("path", POSTS)
async def test_failures_have_infinitys_shape(path: str) -> None:
    """Each with the status that the other routes have for it."""
    async with FakeInfinity() as fake:
        settings = config(*pools_of(fake), admission=AdmissionSettings(queued_items_max=0))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            told(await caller.post(f"/infinity{path}", POSTS[path]), 429)
        settings = config(*pools_of(fake), limits=LimitsSettings(body_bytes_max=100))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            assert "100" in told(await caller.post(f"/infinity{path}", b" " * 101), 413)
        async with GatewayInProcess(config(*pools_of(fake))) as gateway, Caller(gateway.url) as caller:
            fake.faults.append(Fault(raw=b"nonsense"))
            told(await caller.post(f"/infinity{path}", POSTS[path]), 502)
            await fake.stop()
            told(await caller.post(f"/infinity{path}", POSTS[path]), 503)


@pytest.mark.parametrize("path", [f"/infinity{path}" for path in POSTS])
async def test_bad_fields_are_told_in_a_list(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """Every one of them, with its place."""
    reply = await caller.post(path, {"model": 5})

    assert reply.status == 422
    places = [(problem["type"], problem["loc"][-1]) for problem in reply.body["detail"]]
    assert ("string_type", "model") in places
    assert any(kind == "missing" for kind, _ in places)
    assert fake.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "bert", "input": ["\\ud800"]}',
        b'{"model": "bert", "input": "a", "modality": "\\ud800"}',
        b'{"model": "bert", "input": "a", "dimensions": NaN}',
        b'{"model": "bert", "input": 1' + b"0" * 400 + b"}",
    ],
)
async def test_what_cannot_be_repeated_is_refused_all_the_same(
    caller: Caller, fake: FakeInfinity, body: bytes
) -> None:
    """In JSON that every parser reads."""
    reply = await caller.post("/infinity/embeddings", body)

    assert reply.status == 422
    assert reply.body["detail"]
    assert b"NaN" not in reply.raw


@pytest.mark.parametrize("body", [b"[" * 100_000, b'"\xff"'])
async def test_what_cannot_be_read_is_refused(caller: Caller, fake: FakeInfinity, body: bytes) -> None:
    reply = await caller.post("/infinity/embeddings", body)

    assert (reply.status, reply.body) == (400, {"detail": "There was an error parsing the body"})


@pytest.mark.parametrize("path", ["/infinity/nowhere", "/infinity/", "/infinity/embeddings/"])
async def test_routes_that_are_not_there(caller: Caller, fake: FakeInfinity, path: str) -> None:
    reply = await caller.post(path, {})

    assert (reply.status, reply.body) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(("method", "path"), [("GET", "/infinity/rerank"), ("POST", "/infinity/models")])
async def test_methods_that_are_not_there(caller: Caller, fake: FakeInfinity, method: str, path: str) -> None:
    reply = await caller.send(method, path)

    assert (reply.status, reply.body) == (405, {"detail": "Method Not Allowed"})
    assert reply.headers["Allow"]


async def test_unknown_fields_go_nowhere(caller: Caller, fake: FakeInfinity) -> None:
    """Infinity drops them, so they must not keep calls apart."""
    await caller.post(
        "/infinity/embeddings", {**POSTS["/embeddings"], "task": {"any": ["thing"]}, "api_key": 5}
    )
    await caller.post("/infinity/rerank", {**POSTS["/rerank"], "raw_scores": "no", "rank_fields": ["a"]})

    assert fake.posts[0].body.keys() == {"model", "input", "encoding_format"}
    assert fake.posts[1].body["raw_scores"] is False
    assert "rank_fields" not in fake.posts[1].body

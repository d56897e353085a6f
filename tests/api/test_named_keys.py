"""What the caller with a named key may ask for, and how much."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.api.protocol import Protocol
from gateway.core.quota import Quota
from gateway.core.settings import AdmissionSettings, BatchingSettings, KeySettings, RouterSettings, Secret
from gateway.messages import Task
from tests.api.caller import Caller, Reply, raw_exchange
from tests.api.configs import SHARED, config, named_key, pool, pools_of
from tests.api.waiting import until
from tests.api.ways import Way, by_asgi, through
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

MASTER, RAG, JOBS, SOME = "sk-master", "sk-rag-0123456789", "sk-jobs", "sk-some"
RULES = (
    named_key("rag", RAG),
    named_key("jobs", JOBS, bulk=True),
    named_key("some", SOME, models=("bert*", "ranks")),
)
ROUTER = RouterSettings(
    aliases={"ranks": "cross", "text-embedding-3-small": "clip"},
    default_models={Task.EMBED: "clip"},
    fallbacks={"bert-tokens": ("clip", "bert")},
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[Protocol, by_asgi], ids=["direct", "asgi"]
)
async def gateway(
    shared_fake: FakeInfinity, request: pytest.FixtureRequest
) -> AsyncIterator[GatewayInProcess]:
    """One with a master key and three others, which speaks both ways in turn."""
    settings = config(*pools_of(shared_fake), master_key=Secret(MASTER), keys=RULES, router=ROUTER)
    with through(request.param):
        async with GatewayInProcess(settings) as gateway:
            yield gateway


@contextlib.asynccontextmanager
async def limited(way: Way = Protocol, /, **rules: Any) -> AsyncIterator["Limited"]:
    """A gateway for one caller, whose key has these rules."""
    key = named_key("rag", RAG, **rules)
    async with FakeInfinity() as fake:
        settings = config(
            pool("bert", fake), pool("cross", fake), keys=(key,), batching=BatchingSettings(in_flight_max=1)
        )
        with through(way):
            async with GatewayInProcess(settings) as gateway, Caller(gateway.url, **bearer(RAG)) as caller:
                fake.requests.clear()
                yield Limited(gateway, caller, fake, key)


class Limited:
    def __init__(
        self, gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, key: KeySettings
    ) -> None:
        self.gateway = gateway
        self.caller = caller
        self.fake = fake
        self._key = key

    @property
    def quota(self) -> Quota:
        quota = self.gateway.runtime.quotas.find(self._key.digest)
        assert quota is not None
        return quota


WAYS = pytest.mark.parametrize("way", [Protocol, by_asgi], ids=["direct", "asgi"])


def remaining(reply: Reply, kind: str) -> int:
    return int(reply.headers[f"x-ratelimit-remaining-{kind}"])


# Who


@pytest.mark.parametrize(
    "headers",
    [
        bearer(RAG),
        bearer(MASTER),
        {"api_key": RAG},
        {"Authorization": f"bearer  {RAG} "},
        {"api_key": MASTER},
    ],
    ids=str,
)
async def test_a_named_key_is_taken_as_the_master_key_is(
    caller: Caller, fake: FakeInfinity, headers: dict[str, str]
) -> None:
    """In both headers, on calls and pages."""
    replies = [
        await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, **headers),
        await caller.get("/v1/models", **headers),
        await caller.post("/infinity/embeddings", {"model": "bert", "input": "one"}, **headers),
    ]

    assert [reply.status for reply in replies] == [200, 200, 200]


@pytest.mark.parametrize(
    "given", [RAG[:-1], RAG + "x", RAG.upper(), named_key("x", RAG).digest.hex(), "rag", "", " "]
)
async def test_another_is_not(caller: Caller, fake: FakeInfinity, given: str) -> None:
    """Neither a part of it, nor its name, nor its digest."""
    reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, **bearer(given))

    message = reply.error(401)
    assert RAG not in message
    assert fake.asked == []


@pytest.mark.proves("a caller without a key, or with another", caller="401; keys show nowhere", kind="attack")
async def test_no_key_shows_anywhere(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in answers, pages, the log, or the text of what holds them."""
    caplog.set_level(logging.DEBUG)
    said = []
    for key in (MASTER, RAG, "sk-wrong"):
        said += [await caller.get(path, **bearer(key)) for path in ("/status", "/v1/models", "/metrics")]
        said += [await caller.post("/v1/embeddings", {"model": "none", "input": 1}, **bearer(key))]
    runtime = gateway.runtime
    shown = [repr(runtime.config), repr(runtime.quotas), caplog.text, *(str(reply.raw) for reply in said)]

    statuses = {reply.status for reply in said}
    assert statuses >= {200, 401}
    for secret in (MASTER, RAG, JOBS, "sk-wrong", RULES[0].digest.hex(), repr(RULES[0].digest)[2:-1]):
        assert not any(secret in text for text in shown)


# Which models


@pytest.mark.parametrize("model", ["clip", "text-embedding-3-small", "no-such-model", "classifier"])
async def test_a_model_that_a_key_is_not_for_is_forbidden(
    caller: Caller, fake: FakeInfinity, model: str
) -> None:
    """By any of its names, and whether there is one or not: 403 tells nothing of what else is here."""
    before = (await caller.samples()).value("rejected_total", reason="forbidden")
    reply = await caller.post("/v1/embeddings", {"model": model, "input": "one"}, **bearer(SOME))
    after = (await caller.samples()).value("rejected_total", reason="forbidden")

    message = reply.error(403)
    assert message == f"this key may not use the model '{model}'"
    assert reply.body["error"]["code"] == "model_not_allowed"
    assert after - before == 1
    assert fake.asked == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/deployments/clip/embeddings", {"model": "bert", "input": "one"}),
        ("/engines/clip/embeddings", {"input": "one"}),
        ("/infinity/embeddings", {"model": "clip", "input": "one"}),
        (
            "/v2/embed",
            {"model": "clip", "texts": ["one"], "input_type": "search_query", "embedding_types": ["float"]},
        ),
        ("/v1/classify", {"model": "classifier", "input": ["one"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_it_is_forbidden_on_every_route(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any]
) -> None:
    """In every dialect, and in the path as in the body."""
    reply = await caller.post(path, body, **bearer(SOME))
    allowed = await caller.post(path, body, **bearer(RAG))

    assert reply.status == 403
    assert "may not use the model" in reply.raw.decode()
    assert allowed.status == 200


async def test_what_a_key_is_for_is_served(caller: Caller, fake: FakeInfinity) -> None:
    """By a pattern, and by an alias, which stands for its model under all its names."""
    replies = [
        await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, **bearer(SOME)),
        await caller.post("/v1/embeddings", {"model": "bert-bits", "input": "one"}, **bearer(SOME)),
    ]
    for model in ("ranks", "cross"):
        body = {"model": model, "query": "q", "documents": ["a"]}
        replies.append(await caller.post("/v1/rerank", body, **bearer(SOME)))

    assert [reply.status for reply in replies] == [200] * 4


async def test_lists_and_errors_name_only_what_a_key_is_for(caller: Caller, fake: FakeInfinity) -> None:
    """On the pages and in what is said of unknown models."""
    mine = {"bert", "bert-tokens", "bert-bits", "cross", "ranks"}
    models = await caller.get("/v1/models", **bearer(SOME))
    native = await caller.get("/infinity/models", **bearer(SOME))
    info = await caller.get("/model/info", **bearer(SOME))
    whole = await caller.get("/v1/models", **bearer(RAG))
    replies = [
        await caller.post("/v1/embeddings", {"model": "bertha", "input": "one"}, **bearer(SOME)),
        await caller.post("/infinity/embeddings", {"model": "bertha", "input": "one"}, **bearer(SOME)),
        await caller.post("/v1/rerank", {"model": "bert", "query": "q", "documents": ["a"]}, **bearer(SOME)),
        await caller.post("/v1/classify", {"input": ["one"]}, **bearer(SOME)),
    ]

    assert {model["id"] for model in models.body["data"]} == mine
    assert {model["id"] for model in native.body["data"]} == mine
    assert {model["model_name"] for model in info.body["data"]} == mine
    assert {model["id"] for model in whole.body["data"]} > mine | {"clip"}
    assert [reply.status for reply in replies] == [404, 400, 400, 400]
    for reply in replies:
        assert "bert" in reply.raw.decode()
        for other in ("clip", "classifier", "clap", "colbert", "text-embedding-3-small"):
            assert other not in reply.raw.decode()


@pytest.mark.proves(
    "a key for some models asks for another, by name, alias, path, default or fallback",
    caller="403, or an answer of a model that it may use",
    kind="attack",
)
async def test_no_default_and_no_fallback_leads_past_a_key(caller: Caller, fake: FakeInfinity) -> None:
    """Who names no model gets the one that there is for the key; who stands in is one that it may use."""
    unnamed = {"query": "q", "documents": ["a"]}
    default = await caller.post("/v1/embeddings", {"input": "one"}, **bearer(RAG))
    several = await caller.post("/v1/embeddings", {"input": "one"}, **bearer(SOME))
    only = await caller.post("/v1/rerank", unnamed, **bearer(SOME))
    fake.faults.append(Fault(when=lambda request: request.body.get("model") == "bert-tokens", status=500))
    fell_back = await caller.post("/v1/embeddings", {"model": "bert-tokens", "input": "one"}, **bearer(RAG))
    kept = await caller.post("/v1/embeddings", {"model": "bert-tokens", "input": "one"}, **bearer(SOME))

    assert (default.status, default.body["model"]) == (200, "clip")
    assert "name a model" in several.error(400)
    assert "clip" not in several.error(400)
    assert (only.status, only.body["model"]) == (200, "cross")
    assert fell_back.body["model"] == "clip"
    assert kept.body["model"] == "bert"


# How much


@pytest.mark.proves(
    "a caller who sends more than its key may", caller="429 with Retry-After and x-ratelimit-*", kind="attack"
)
@WAYS
async def test_requests_a_minute(way: Way) -> None:
    """Told with each answer, and past it refused until the next is due."""
    async with limited(way, requests_per_minute=3) as here:
        replies = [await here.caller.embed(f"text {i}") for i in range(3)]
        refused = await here.caller.embed("one more")
        samples = await here.caller.samples()

    assert [remaining(reply, "requests") for reply in replies] == [2, 1, 0]
    assert replies[0].headers["x-ratelimit-limit-requests"] == "3"
    assert 0 < float(replies[0].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 20
    assert "3 requests a minute" in refused.error(429)
    assert refused.body["error"]["code"] == "rate_limit_exceeded"
    assert 10 < int(refused.headers["Retry-After"]) <= 20
    assert "x-ratelimit-limit-items" not in refused.headers
    assert here.fake.batches == [["text 0"], ["text 1"], ["text 2"]]
    assert samples.value("rejected_total", reason="rate_limited") == 1


async def test_a_request_too_many_need_not_send_its_body() -> None:
    """A flood costs its heads."""
    async with limited(requests_per_minute=1) as here:
        await here.caller.embed("one")
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %b\r\n" % RAG.encode()
        answer = await raw_exchange(
            here.gateway.port, head + b"Content-Length: 30000000\r\n\r\n", until_closed=False
        )

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: " in answer


@WAYS
async def test_items_a_minute(way: Way) -> None:
    """Texts and documents alike; a call that can never fit is wrong, one that does not fit now is early."""
    async with limited(way, items_per_minute=10) as here:
        never = await here.caller.embed(["text"] * 11)
        first = await here.caller.embed([f"text {i}" for i in range(6)])
        early = await here.caller.rerank("q", [f"document {i}" for i in range(5)])
        fits = await here.caller.rerank("q", [f"document {i}" for i in range(4)])

    assert "11 items" in never.error(400)
    assert "10 a minute" in never.error(400)
    assert (first.status, remaining(first, "items")) == (200, 4)
    assert "this call has 5 items" in early.error(429)
    assert 4 <= int(early.headers["Retry-After"]) <= 6
    assert remaining(early, "items") == 4
    assert (fits.status, remaining(fits, "items")) == (200, 0)


@WAYS
async def test_what_was_not_served_costs_nothing(way: Way) -> None:
    """Neither with 429 nor with 503; what a caller did wrong is a request, and no items."""
    async with limited(way, requests_per_minute=5, items_per_minute=5) as here:
        wrong = [
            await here.caller.post("/v1/embeddings", b"{"),
            await here.caller.embed("one", "none"),
            await here.caller.post("/v1/embeddings", b"{}", Content_Encoding="gzip"),
        ]
        early = [await here.caller.embed(["text"] * 4), await here.caller.embed(["text"] * 2)]
        await here.fake.stop()
        down = await here.caller.embed("one")
        await until(lambda: here.gateway.up == 1)
        still_down = await here.caller.embed("one")

    assert [reply.status for reply in wrong] == [400, 404, 400]
    assert [remaining(reply, "requests") for reply in wrong] == [4, 3, 2]
    assert [reply.status for reply in early] == [200, 429]
    assert still_down.status == 503
    for kind in ("requests", "items"):
        assert remaining(still_down, kind) == remaining(down, kind)
    assert [remaining(reply, "items") for reply in (*wrong, *early)] == [5, 5, 5, 1, 1]


async def test_a_full_gateway_gives_back_what_it_does_not_take() -> None:
    """429 for others' load is no debt of the caller's."""
    key = named_key("rag", RAG, requests_per_minute=5, items_per_minute=10)
    full = AdmissionSettings(queued_items_max=3)
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake), keys=(key,), admission=full)) as gateway,
        Caller(gateway.url, **bearer(RAG)) as caller,
    ):
        refused = await caller.embed([f"text {i}" for i in range(4)])

    assert "items are waiting" in refused.error(429)
    assert (remaining(refused, "requests"), remaining(refused, "items")) == (5, 10)


@WAYS
async def test_calls_at_once(way: Way) -> None:
    """One more is refused at once; when one ends there is room again."""
    gate = asyncio.Event()
    async with limited(way, concurrency=2) as here:
        here.fake.faults.append(Fault(delay=gate))
        held = [asyncio.create_task(here.caller.embed(f"text {i}")) for i in range(2)]
        await until(lambda: here.quota.under_way == 2)
        refused = await here.caller.embed("one more")
        gate.set()
        replies = await asyncio.gather(*held)
        after = await here.caller.embed("one more")
        samples = await here.caller.samples()

        assert here.quota.under_way == 0
    assert "2 calls under way" in refused.error(429)
    assert refused.body["error"]["code"] == "too_many_calls"
    assert [reply.status for reply in (*replies, after)] == [200] * 3
    assert samples.value("rejected_total", reason="too_many_calls") == 1


@pytest.mark.proves(
    "a caller hangs up, errs, times out or is refused, again and again, under a limit of calls at once",
    caller="its next calls are served: each place is given back, once",
)
@WAYS
async def test_every_place_is_given_back(way: Way) -> None:
    """On every path, and once on each."""
    gate = asyncio.Event()
    async with limited(way, concurrency=4) as here:
        for _ in range(3):
            wrong = [
                await here.caller.post("/v1/embeddings", b"{"),
                await here.caller.embed("one", "none"),
                await here.caller.embed("one", dimensions=10_000),
                await here.caller.embed(["text"] * 300, dimensions=10_000),
                await here.caller.post("/v1/rerank", {"model": "bert", "query": "q", "documents": ["a"]}),
            ]
            gate.clear()
            here.fake.faults.append(Fault(delay=gate))
            leaving = [
                asyncio.create_task(here.caller.embed("held")),
                asyncio.create_task(here.caller.embed(["many"] * 300)),
            ]
            hurried = asyncio.create_task(
                here.caller.post("/v1/embeddings", {"model": "bert", "input": "b"}, x_request_timeout="0.1")
            )
            staying = asyncio.create_task(here.caller.embed("staying"))
            await until(lambda: here.quota.under_way == 4)
            refused = await here.caller.embed("one too many")
            for call in leaving:
                call.cancel()
            await asyncio.wait(leaving)
            late = await hurried
            await until(lambda: here.quota.under_way == 1)
            gate.set()
            here.fake.faults.clear()

            assert (await staying).status == 200
            assert all(400 <= reply.status < 500 for reply in wrong)
            assert (refused.status, late.status) == (429, 504)
        served = await asyncio.gather(*(here.caller.embed(f"text {i}") for i in range(4)))

        assert [reply.status for reply in served] == [200] * 4
        await until(lambda: here.quota.under_way == 0)


@pytest.mark.parametrize("sent", ["a head", "half a body", "all"])
@WAYS
async def test_who_hangs_up_midway_leaves_no_place_taken(way: Way, sent: str) -> None:
    """However much of the call had come."""
    gate = asyncio.Event()
    body = b'{"model": "bert", "input": "leaving"}'
    head = (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
        % (RAG.encode(), len(body))
    )
    parts = {"a head": head, "half a body": head + body[:9], "all": head + body}
    async with limited(way, requests_per_minute=50, concurrency=1) as here:
        here.fake.faults.append(Fault(delay=gate))
        _, writer = await asyncio.open_connection("127.0.0.1", here.gateway.port)
        writer.write(parts[sent])
        # Its head has been read: it is a request.
        await until(lambda: next(here.quota.levels(asyncio.get_running_loop().time())).left == 49)
        if sent == "all":
            await until(lambda: here.quota.under_way == 1)
        writer.transport.abort()
        await until(lambda: here.quota.under_way == 0)
        gate.set()
        after = await here.caller.embed("after")

    assert after.status == 200


# In what order


@pytest.mark.parametrize(
    ("key", "asked", "expected"),
    [
        (RAG, None, "interactive"),
        (RAG, "bulk", "bulk"),
        (JOBS, None, "bulk"),
        (JOBS, "bulk", "bulk"),
        (JOBS, "interactive", "bulk"),
        (JOBS, "", "bulk"),
    ],
)
async def test_a_header_lowers_the_class_of_a_key_and_never_raises_it(
    caller: Caller, fake: FakeInfinity, key: str, asked: str | None, expected: str
) -> None:
    """As the metrics have it, by which class a call waited."""
    wish = {} if asked is None else {"x_priority": asked}
    before = await caller.samples()
    reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, **bearer(key), **wish)
    after = await caller.samples()

    name = "queue_wait_seconds_count"
    assert reply.status == 200
    assert after.value(name, model="bert", class_=expected) == 1 + before.value(
        name, model="bert", class_=expected
    )


async def test_callers_share_by_name() -> None:
    """Who asks much waits behind who asks little, whatever connections they use."""
    gate = asyncio.Event()
    keys = (named_key("much", "sk-much"), named_key("little", "sk-little"))
    batching = BatchingSettings(items_max=4, in_flight_max=1)
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake), keys=keys, batching=batching)) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.requests.clear()
        fake.faults.append(Fault(delay=gate))

        def call(key: str, text: str) -> "asyncio.Task[Reply]":
            body = {"model": "bert", "input": text}
            return asyncio.create_task(caller.post("/v1/embeddings", body, **bearer(key)))

        first = call("sk-much", "first")
        await fake.received(1)
        calls = [call("sk-much", f"much {i}") for i in range(40)]
        await caller.samples_when("queued_items", 40)
        calls += [call("sk-little", f"little {i}") for i in range(2)]
        await caller.samples_when("queued_items", 42)
        gate.set()
        replies = await asyncio.gather(first, *calls)

    assert {reply.status for reply in replies} == {200}
    early = [text for batch in fake.batches[1:3] for text in batch]
    assert {"little 0", "little 1"} <= set(early)

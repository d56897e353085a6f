"""One call from start to end, with servers in memory and fake time."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.events import CallServed, DeploymentChanged, Event, FellBack
from gateway.core.lanes import BatchKey
from gateway.core.retry import Failure
from gateway.core.router import UNNAMED
from gateway.core.settings import (
    AdmissionSettings,
    BatchingSettings,
    DeploymentSettings,
    EngineSettings,
    HealthSettings,
    LimitsSettings,
    PoolSettings,
    RouterSettings,
)
from gateway.errors import (
    BadAnswer,
    BadRequest,
    DeadlineExceeded,
    Draining,
    GatewayError,
    NoDeployment,
    Overloaded,
    ServerFailed,
    UnknownModel,
)
from gateway.messages import ClassifyCall, EmbeddingCall, Modality, ModelCard, RerankCall, Scalar, Task
from gateway.service import BY_EMBEDDING, Gateway
from gateway.vectors import floats
from tests.fakes.time import fake_time, idle
from tests.fakes.upstream import CLASSIFIES, EMBEDS, RERANKS, Fault, RecordingUpstream, base64_of, value_of


def server(name: str) -> DeploymentSettings:
    return DeploymentSettings(name, f"http://{name}")


def pool(
    name: str,
    servers: str = "a",
    params: Mapping[str, Scalar] | None = None,
    prefixes: Mapping[str, str] | None = None,
) -> PoolSettings:
    return PoolSettings(name, tuple(map(server, servers)), params or {}, prefixes=prefixes or {})


@asynccontextmanager
async def serving(
    upstream: RecordingUpstream,
    *pools: PoolSettings,
    settings: EngineSettings | None = None,
    events: list[Event] | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway in which every server that answers has been seen to do so."""
    engine = replace(settings or EngineSettings(), pools=pools)
    observe = (events if events is not None else []).append
    async with Gateway(engine, upstream, observe, random.Random(0)) as gateway:
        await idle()
        yield gateway


def now() -> float:
    return asyncio.get_running_loop().time()


def vectors_of(*texts: str, params: bytes = b"") -> list[object]:
    return [value_of(BatchKey(Task.EMBED, params), text) for text in texts]


# The three tasks


@fake_time
async def test_embeddings_come_in_the_order_of_the_inputs() -> None:
    """With the name that was asked for, the usage, and where the time went."""
    upstream = RecordingUpstream(latency_s=2)

    async with serving(upstream, pool("m")) as gateway:
        result = await gateway.embed(EmbeddingCall(["x", "yy", "x"], "m"))

    assert result.vectors == vectors_of("x", "yy", "x")
    assert (result.model, result.tokens) == ("m", 4)
    assert (result.timings.queue_s, result.timings.upstream_s) == (0, 2)


@fake_time
async def test_the_time_in_the_queue_is_told_apart_from_the_time_at_the_server() -> None:
    """Who is slow, the gateway or the server, is the first thing that is asked."""
    upstream = RecordingUpstream(latency_s=2)
    settings = EngineSettings(batching=BatchingSettings(in_flight_max=1))

    async with serving(upstream, pool("m"), settings=settings) as gateway:
        first = asyncio.get_running_loop().create_task(gateway.embed(EmbeddingCall(["x"], "m")))
        await asyncio.sleep(0.5)
        second = await gateway.embed(EmbeddingCall(["y"], "m"))
        await first

    assert (second.timings.queue_s, second.timings.upstream_s) == (1.5, 2)


@fake_time
async def test_classes_come_in_the_order_of_the_inputs() -> None:
    """As fragments, just as the server wrote them."""
    upstream = RecordingUpstream()

    async with serving(upstream, pool("m")) as gateway:
        result = await gateway.classify(ClassifyCall(["x", "yy"], "m"))

    assert result.labels == [value_of(BatchKey(Task.CLASSIFY), text) for text in ("x", "yy")]
    assert (result.model, result.tokens) == ("m", 3)


@fake_time
async def test_images_go_by_themselves_and_as_images() -> None:
    """Two calls of one moment are two requests, each whole."""
    upstream = RecordingUpstream(latency_s=1)

    async with serving(upstream, pool("m")) as gateway:
        await asyncio.gather(
            gateway.embed(EmbeddingCall(["data:1", "data:2"], "m", Modality.IMAGE)),
            gateway.embed(EmbeddingCall(["data:3"], "m", Modality.IMAGE)),
            gateway.embed(EmbeddingCall(["text"], "m")),
        )

    assert sorted(batch.items for batch in upstream.batches) == [["data:1", "data:2"], ["data:3"], ["text"]]
    assert [request.key.modality for request in upstream.requests].count(Modality.IMAGE) == 2


@fake_time
async def test_a_call_is_reported_when_it_is_served() -> None:
    """With the pool and not with the name that was used, so that metrics have few labels."""
    events: list[Event] = []
    settings = EngineSettings(router=RouterSettings(aliases={"ada": "m"}))

    async with serving(RecordingUpstream(), pool("m"), settings=settings, events=events) as gateway:
        await gateway.embed(EmbeddingCall(["x"] * 9, "ada"))

    assert [event for event in events if isinstance(event, CallServed)] == [("m", "bulk", 9, 9, 0)]


# Which model


@fake_time
async def test_an_alias_is_answered_under_the_name_that_was_used() -> None:
    """A client may compare it with what it asked for."""
    settings = EngineSettings(router=RouterSettings(aliases={"ada": "m"}))

    async with serving(RecordingUpstream(), pool("m"), settings=settings) as gateway:
        assert (await gateway.embed(EmbeddingCall(["x"], "ada"))).model == "ada"


@pytest.mark.parametrize("unnamed", [None, UNNAMED])
@fake_time
async def test_a_call_without_a_model_is_answered_under_the_name_of_who_answered(unnamed: str | None) -> None:
    """The only one that can do it."""
    upstream = RecordingUpstream(facts={"a": EMBEDS, "b": RERANKS, "c": CLASSIFIES})

    async with serving(upstream, pool("e", "a"), pool("r", "b"), pool("c", "c")) as gateway:
        assert (await gateway.embed(EmbeddingCall(["x"], unnamed))).model == "e"
        assert (await gateway.rerank(RerankCall("q", ["x"], unnamed))).model == "r"
        assert (await gateway.classify(ClassifyCall(["x"], unnamed))).model == "c"


@fake_time
async def test_where_several_models_can_the_default_is_taken() -> None:
    """Each task has its own; without one the caller must choose."""
    settings = EngineSettings(router=RouterSettings(default_models={Task.EMBED: "n"}))

    async with serving(RecordingUpstream(), pool("m"), pool("n"), settings=settings) as gateway:
        assert (await gateway.embed(EmbeddingCall(["x"]))).model == "n"
        with pytest.raises(BadRequest, match="several can rerank: m, n"):
            await gateway.rerank(RerankCall("q", ["x"]))


@fake_time
async def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    """And nothing is sent."""
    upstream = RecordingUpstream()

    async with serving(upstream, pool("m")) as gateway:
        with pytest.raises(UnknownModel, match="known are m"):
            await gateway.embed(EmbeddingCall(["x"], "nonsense"))

    assert upstream.batches == []


@fake_time
async def test_a_model_that_cannot_do_it_is_refused() -> None:
    """Known from what its servers told."""
    upstream = RecordingUpstream(facts={"a": EMBEDS})

    async with serving(upstream, pool("m")) as gateway:
        with pytest.raises(BadRequest, match="cannot rerank"):
            await gateway.rerank(RerankCall("q", ["x"], "m"))
        with pytest.raises(BadRequest, match="cannot embed images"):
            await gateway.embed(EmbeddingCall(["data:1"], "m", Modality.IMAGE))

    assert upstream.batches == []


@fake_time
async def test_the_list_of_models_has_every_name_with_what_it_can_do() -> None:
    """Aliases too."""
    upstream = RecordingUpstream(facts={"a": EMBEDS, "b": RERANKS})
    settings = EngineSettings(router=RouterSettings(aliases={"ada": "e"}))

    async with serving(upstream, pool("e", "a"), pool("r", "b"), settings=settings) as gateway:
        assert gateway.models() == [
            ModelCard("e", ("embed",)),
            ModelCard("r", ("rerank",)),
            ModelCard("ada", ("embed",)),
        ]


# Fallbacks


def falling_back(*to: str, **settings: object) -> EngineSettings:
    router = RouterSettings(fallbacks={"first": to})
    return replace(EngineSettings(router=router), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind", [Failure.REFUSED, Failure.SERVER_ERROR, Failure.BAD_ANSWER, Failure.OVERLOADED]
)
@fake_time
async def test_when_a_pool_cannot_answer_the_next_one_does(kind: Failure) -> None:
    """In the order of the configuration, and the answer says who gave it."""
    upstream = RecordingUpstream(faults=[Fault(kind, "a"), Fault(kind, "b")])
    events: list[Event] = []
    pools = [pool("first", "a"), pool("second", "b"), pool("third", "c"), pool("fourth", "d")]

    async with serving(
        upstream, *pools, settings=falling_back("second", "third", "fourth"), events=events
    ) as gateway:
        result = await gateway.embed(EmbeddingCall(["x"], "first"))

    assert result.model == "third"
    assert result.vectors == vectors_of("x")
    assert [batch.deployment for batch in upstream.batches] == ["a", "b", "c"]
    assert [e for e in events if isinstance(e, FellBack)] == [("first", "second"), ("first", "third")]


@fake_time
async def test_when_a_pool_is_full_the_next_one_answers() -> None:
    """Being refused at the door is being unable to answer."""
    settings = falling_back("second", admission=AdmissionSettings(queued_items_max=2))

    async with serving(
        RecordingUpstream(latency_s=1), pool("first", "a"), pool("second", "b"), settings=settings
    ) as gateway:
        calls = [gateway.embed(EmbeddingCall(["x", "y"], "first")) for _ in range(2)]
        results = await asyncio.gather(*calls)

    assert [result.model for result in results] == ["first", "second"]


@pytest.mark.parametrize(
    ("kind", "error"), [(Failure.REJECTED, BadRequest), (Failure.TIMEOUT, DeadlineExceeded)]
)
@fake_time
async def test_a_bad_input_and_a_lapsed_deadline_do_not_fall_back(
    kind: Failure, error: type[GatewayError]
) -> None:
    """The one fails everywhere, and for the other there is no time left."""
    upstream = RecordingUpstream(faults=[Fault(kind, "a")])

    async with serving(
        upstream, pool("first", "a"), pool("second", "b"), settings=falling_back("second")
    ) as gateway:
        with pytest.raises(error):
            await gateway.embed(EmbeddingCall(["x"], "first"))

    assert [batch.deployment for batch in upstream.batches] == ["a"]


@fake_time
async def test_when_no_fallback_can_answer_the_first_error_is_told() -> None:
    """It is about the model that the caller knows."""
    upstream = RecordingUpstream(faults=[Fault(Failure.BAD_ANSWER, "a"), Fault(Failure.OVERLOADED, "b")])

    async with serving(
        upstream, pool("first", "a"), pool("second", "b"), settings=falling_back("second")
    ) as gateway:
        with pytest.raises(BadAnswer):
            await gateway.embed(EmbeddingCall(["x"], "first"))


@fake_time
async def test_a_pool_without_fallbacks_fails_by_itself() -> None:
    """Others are not asked."""
    upstream = RecordingUpstream(down={"a"})

    async with serving(upstream, pool("first", "a"), pool("second", "b")) as gateway:
        with pytest.raises(NoDeployment):
            await gateway.embed(EmbeddingCall(["x"], "first"))

    assert upstream.batches == []


@fake_time
async def test_a_call_on_the_fallback_has_the_parameters_and_the_prefixes_of_the_fallback() -> None:
    """It is another model."""
    upstream = RecordingUpstream(down={"a"})
    first = pool("first", "a", {"p": 1}, {"query": "first: "})
    second = pool("second", "b", {"p": 2}, {"query": "second: "})

    async with serving(upstream, first, second, settings=falling_back("second")) as gateway:
        await gateway.embed(EmbeddingCall(["x"], "first", role="query"))

    assert [(r.items, r.key.params) for r in upstream.requests] == [(["second: x"], b'{"p":2}')]


@fake_time
async def test_the_time_of_a_call_covers_its_fallbacks() -> None:
    """The caller asked for an answer within ten seconds, and not for ten from each."""
    upstream = RecordingUpstream(latencies={"a": 6, "b": 100}, faults=[Fault(Failure.SERVER_ERROR, "a")])

    async with serving(
        upstream, pool("first", "a"), pool("second", "b"), settings=falling_back("second")
    ) as gateway:
        with pytest.raises(DeadlineExceeded):
            await gateway.embed(EmbeddingCall(["x"], "first", timeout_s=10))

        assert now() == 10


@fake_time
async def test_a_fallback_that_no_server_has_told_of_yet_is_passed_over() -> None:
    """Its server may not be up; the first error says enough."""
    upstream = RecordingUpstream(down={"a"})

    async with serving(upstream, pool("first", "a"), settings=falling_back("later")) as gateway:
        with pytest.raises(NoDeployment):
            await gateway.embed(EmbeddingCall(["x"], "first"))


# Parameters


@fake_time
async def test_the_parameters_of_a_call_win_over_the_configured_ones() -> None:
    """One by one."""
    upstream = RecordingUpstream()

    async with serving(upstream, pool("m", "a", {"p": 1, "q": 2})) as gateway:
        await gateway.embed(EmbeddingCall(["x"], "m", params={"q": 3, "r": "s"}))
        await gateway.embed(EmbeddingCall(["x"], "m"))

    assert [request.key.params for request in upstream.requests] == [
        b'{"p":1,"q":3,"r":"s"}',
        b'{"p":1,"q":2}',
    ]


@fake_time
async def test_calls_with_different_parameters_do_not_share_a_batch() -> None:
    """To Python true, 1 and 1.0 are equal; to a server they are not."""
    upstream = RecordingUpstream(latency_s=1)
    values: list[Scalar] = [True, 1, 1.0, "1", None, False, 0]

    async with serving(upstream, pool("m")) as gateway:
        calls = [EmbeddingCall([f"x{i}"], "m", params={"p": value}) for i, value in enumerate(values)]
        results = await asyncio.gather(*map(gateway.embed, calls))

    assert [batch.items for batch in upstream.batches] == [[f"x{i}"] for i in range(7)]
    assert len({request.key.params for request in upstream.requests}) == 7
    for i, result in enumerate(results):
        assert result.vectors == vectors_of(f"x{i}", params=upstream.requests[i].key.params)


@fake_time
async def test_equal_parameters_share_a_batch_in_whatever_order_they_come() -> None:
    """And from wherever: the configuration or the call."""
    upstream = RecordingUpstream(latency_s=1)

    async with serving(upstream, pool("m", "a", {"r": 3})) as gateway:
        await asyncio.gather(
            gateway.embed(EmbeddingCall(["x"], "m", params={"p": 1, "q": 2})),
            gateway.embed(EmbeddingCall(["y"], "m", params={"q": 2, "p": 1, "r": 3})),
            gateway.embed(EmbeddingCall(["z"], "m", params={"r": 3, "q": 2, "p": 1})),
        )

    assert [batch.items for batch in upstream.batches] == [["x", "y", "z"]]


# Rerank


def scored(**scores: float) -> RecordingUpstream:
    return RecordingUpstream(latency_s=1, scripted=dict(scores))


@fake_time
async def test_documents_are_ranked_by_score_and_ties_keep_their_order() -> None:
    """Falling, with the index that each had in the call."""
    upstream = scored(a=0.5, b=0.9, c=0.5, d=-1.0, e=0.9)

    async with serving(upstream, pool("m")) as gateway:
        result = await gateway.rerank(RerankCall("q", list("abcde"), "m"))

    assert result.ranking == [(1, 0.9), (4, 0.9), (0, 0.5), (2, 0.5), (3, -1.0)]
    assert result.warnings == ()


@fake_time
async def test_a_document_without_a_score_comes_last() -> None:
    """NaN compares with nothing; anywhere else it would disturb the order of the others."""
    upstream = scored(a=0.1, b=float("nan"), c=0.9, d=float("nan"), e=-5.0)

    async with serving(upstream, pool("m")) as gateway:
        result = await gateway.rerank(RerankCall("q", list("abcde"), "m"))

    assert [index for index, _ in result.ranking] == [2, 0, 4, 1, 3]


@pytest.mark.parametrize(
    ("top_n", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 0]), (99, [1, 2, 0]), (None, [1, 2, 0])]
)
@fake_time
async def test_only_the_best_are_given_and_all_are_charged(top_n: int | None, expected: list[int]) -> None:
    """`top_n` saves nobody any work."""
    async with serving(scored(a=0.1, b=0.9, c=0.5), pool("m")) as gateway:
        result = await gateway.rerank(RerankCall("query", list("abc"), "m", top_n))

    assert [index for index, _ in result.ranking] == expected
    assert result.tokens == 3 * (len("query") + 1)


@fake_time
async def test_equal_queries_share_a_batch_and_different_ones_do_not() -> None:
    """A server takes one query a request."""
    upstream = RecordingUpstream(latency_s=1)

    async with serving(upstream, pool("m")) as gateway:
        await asyncio.gather(
            gateway.rerank(RerankCall("q", ["a", "b"], "m")),
            gateway.rerank(RerankCall("r", ["c"], "m")),
            gateway.rerank(RerankCall("q", ["d"], "m", top_n=1)),
        )

    assert [(r.key.query, r.items) for r in upstream.requests] == [("q", ["a", "b", "d"]), ("r", ["c"])]


# Rerank by embedding

BY_EMBEDDINGS = EngineSettings(rerank_by_embedding=True)
DIRECTIONS = {
    "east": base64_of([1, 0]),
    "north": base64_of([0, 2]),
    "north-east": base64_of([1, 1]),
    "west": base64_of([-3, 0]),
}


@fake_time
async def test_a_model_that_can_only_embed_ranks_by_cosine_similarity_and_says_so() -> None:
    """Each text is charged as an embedding, the query too."""
    upstream = RecordingUpstream(facts={"a": EMBEDS}, scripted=dict(DIRECTIONS))

    async with serving(upstream, pool("m"), settings=BY_EMBEDDINGS) as gateway:
        result = await gateway.rerank(RerankCall("east", ["west", "north", "north-east", "east"], "m", 3))

    assert [index for index, _ in result.ranking] == [3, 2, 1]
    assert [score for _, score in result.ranking] == pytest.approx([1, np.sqrt(0.5), 0])
    assert result.warnings == [BY_EMBEDDING]
    assert result.tokens == len("east" + "west" + "north" + "north-east" + "east")


@fake_time
async def test_different_queries_share_a_batch_when_ranked_by_embedding() -> None:
    """To the server they are texts like all others, and a document of both is sent once."""
    upstream = RecordingUpstream(latency_s=1, facts={"a": EMBEDS})

    async with serving(upstream, pool("m"), settings=BY_EMBEDDINGS) as gateway:
        await asyncio.gather(*(gateway.rerank(RerankCall(q, ["a", q + "b"], "m")) for q in ("q", "r")))

    assert [sorted(batch.items) for batch in upstream.batches] == [["a", "q", "qb", "r", "rb"]]


@fake_time
async def test_ranking_by_embedding_uses_the_prefixes_of_query_and_document() -> None:
    """The model was trained with them."""
    upstream = RecordingUpstream(facts={"a": EMBEDS})
    e5 = pool("m", prefixes={"query": "query: ", "document": "passage: "})

    async with serving(upstream, e5, settings=BY_EMBEDDINGS) as gateway:
        await gateway.rerank(RerankCall("q", ["a"], "m"))

    assert upstream.batches[0].items == ["query: q", "passage: a"]


@fake_time
async def test_a_reranker_ranks_by_itself_even_when_embeddings_could() -> None:
    """It is the better one."""
    upstream = RecordingUpstream(scripted={"x": 0.25})

    async with serving(upstream, pool("m"), settings=BY_EMBEDDINGS) as gateway:
        result = await gateway.rerank(RerankCall("q", ["x"], "m"))

    assert result.ranking == [(0, 0.25)]
    assert result.warnings == ()


@fake_time
async def test_a_rerank_without_a_model_means_the_reranker_and_not_the_embedder() -> None:
    """One embedder and one reranker need no names, with ranking by embedding allowed or not."""
    upstream = RecordingUpstream(facts={"a": EMBEDS, "b": RERANKS})

    async with serving(upstream, pool("e", "a"), pool("r", "b"), settings=BY_EMBEDDINGS) as gateway:
        assert (await gateway.rerank(RerankCall("q", ["x"]))).model == "r"


# Dimensions and prefixes


@fake_time
async def test_vectors_are_cut_to_the_dimensions_asked_for() -> None:
    """The server is not told, so calls with different dimensions share a batch."""
    upstream = RecordingUpstream(latency_s=1, scripted={"x": base64_of([1, 2, 3, 4])})

    async with serving(upstream, pool("m")) as gateway:
        calls = [EmbeddingCall(["x"], "m", dimensions=dimensions) for dimensions in (2, 3, None)]
        results = await asyncio.gather(*map(gateway.embed, calls))

    assert [floats(bytes(r.vectors[0])).tolist() for r in results] == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert len(upstream.batches) == 1


@pytest.mark.parametrize("dimensions", [0, -1, 5])
@fake_time
async def test_dimensions_that_the_model_does_not_have_are_refused(dimensions: int) -> None:
    """The error says how many there are."""
    upstream = RecordingUpstream(scripted={"x": base64_of([1, 2, 3, 4])})

    async with serving(upstream, pool("m")) as gateway:
        with pytest.raises(BadRequest, match="from 1 to 4") as caught:
            await gateway.embed(EmbeddingCall(["x"], "m", dimensions=dimensions))

    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("role", "prefix"), [("query", "query: "), ("document", ""), (None, ""), ("other", "")]
)
@fake_time
async def test_the_prefix_of_a_role_is_put_before_each_text(role: str | None, prefix: str) -> None:
    """Where the configuration has one for it."""
    upstream = RecordingUpstream()

    async with serving(upstream, pool("m", prefixes={"query": "query: "})) as gateway:
        await gateway.embed(EmbeddingCall(["x", "y"], "m", role=role))

    assert upstream.batches[0].items == [f"{prefix}x", f"{prefix}y"]


# Time


@pytest.mark.parametrize(("asked", "expected"), [(None, 20), (5, 5), (1000, 60)])
@fake_time
async def test_a_call_has_the_time_it_asks_for_within_the_limit(asked: float | None, expected: float) -> None:
    """And the configured time when it does not ask."""
    settings = EngineSettings(limits=LimitsSettings(timeout_s=20, timeout_s_max=60))
    slow = PoolSettings("m", (DeploymentSettings("a", "http://a", timeout_s=500),))

    async with serving(RecordingUpstream(latency_s=1000), slow, settings=settings) as gateway:
        with pytest.raises(DeadlineExceeded):
            await gateway.embed(EmbeddingCall(["x"], "m", timeout_s=asked))

        assert now() == expected


@fake_time
async def test_leaving_the_gateway_ends_every_call_and_every_task() -> None:
    """Also the questions to servers that have not told their models."""
    upstream = RecordingUpstream(latency_s=100, down={"z"})
    settings = EngineSettings(servers=(server("z"),))

    async with serving(upstream, pool("m"), pool("n", "b"), settings=settings) as gateway:
        loop = asyncio.get_running_loop()
        calls = [loop.create_task(gateway.embed(EmbeddingCall(["x"], model))) for model in "mn"]
        await asyncio.sleep(1)

    assert [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == [Draining] * 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Servers whose models are learned


def learning(*names: str) -> EngineSettings:
    return EngineSettings(
        servers=tuple(map(server, names)), health=HealthSettings(probe_interval_s=0.5, probe_timeout_s=2)
    )


@fake_time
async def test_servers_with_the_same_model_form_one_pool() -> None:
    """And a server with two models is in two."""
    upstream = RecordingUpstream(served={"a": ["m"], "b": ["m", "n"], "c": ["n"]})

    async with serving(upstream, settings=learning("a", "b", "c")) as gateway:
        found = {stats.model: {each.name for each in stats.deployments} for stats in gateway.stats()}
        assert found == {"m": {"a", "b"}, "n": {"b", "c"}}

        result = await gateway.embed(EmbeddingCall([str(i) for i in range(64)], "m"))
        assert result.vectors == vectors_of(*(str(i) for i in range(64)))

    assert {batch.deployment for batch in upstream.batches} == {"a", "b"}


@fake_time
async def test_before_a_server_has_told_its_models_no_server_is_up() -> None:
    """Which is not the same as an unknown model."""
    upstream = RecordingUpstream(served={"a": ["m"]}, down={"a"})

    async with serving(upstream, settings=learning("a")) as gateway:
        for model in ("m", None):
            with pytest.raises(NoDeployment):
                await gateway.embed(EmbeddingCall(["x"], model))


@pytest.mark.parametrize("fault", ["down", "hung"])
@fake_time
async def test_a_server_that_is_not_up_yet_is_taken_in_when_it_comes(fault: str) -> None:
    """It joins the pool that another one has made, and its absence was reported once."""
    upstream = RecordingUpstream(latency_s=1, served={"a": ["m"], "b": ["m"]})
    absent: set[str] = getattr(upstream, fault)
    absent.add("b")
    events: list[Event] = []

    async with serving(upstream, settings=learning("a", "b"), events=events) as gateway:
        assert (await gateway.embed(EmbeddingCall(["x"]))).model == "m"
        await asyncio.sleep(30)
        absent.clear()
        await asyncio.sleep(3)
        await asyncio.gather(*(gateway.embed(EmbeddingCall([text], "m")) for text in "xyz"))

    assert "b" in {batch.deployment for batch in upstream.batches[1:]}
    told = [event for event in events if isinstance(event, DeploymentChanged) and not event.up]
    assert [(event.model, event.deployment) for event in told] == [("", "b")]


@fake_time
async def test_a_learned_server_joins_the_configured_pool_of_that_name() -> None:
    """One name is one pool."""
    upstream = RecordingUpstream(served={"b": ["m"]})

    async with serving(upstream, pool("m", "a"), settings=learning("b")) as gateway:
        assert [[each.name for each in stats.deployments] for stats in gateway.stats()] == [["a", "b"]]


@fake_time
async def test_a_server_that_tells_a_model_twice_harms_nobody() -> None:
    """It is one model, and the models that come after it are learned too."""
    upstream = RecordingUpstream(served={"a": ["m", "m", "n"]})

    async with serving(upstream, settings=learning("a")) as gateway:
        assert [stats.model for stats in gateway.stats()] == ["m", "n"]


@fake_time
async def test_a_model_is_not_unknown_while_a_server_has_not_told_its_models() -> None:
    """It may be that server's: a client gives up on 404 and tries again on 503."""
    upstream = RecordingUpstream(served={"a": ["m"], "b": ["n"]}, down={"b"})

    async with serving(upstream, settings=learning("a", "b")) as gateway:
        with pytest.raises(NoDeployment):
            await gateway.embed(EmbeddingCall(["x"], "o"))

        upstream.down.clear()
        await asyncio.sleep(1)
        with pytest.raises(UnknownModel, match="known are m, n"):
            await gateway.embed(EmbeddingCall(["x"], "o"))


class BrokenUpstream(RecordingUpstream):
    """Raises once what no upstream may raise."""

    broken = True

    async def models(self, server: DeploymentSettings, timeout_s: float) -> Sequence[str]:
        if self.broken:
            self.broken = False
            raise ZeroDivisionError("a bug")
        return await super().models(server, timeout_s)


@fake_time
async def test_a_bug_while_a_server_is_asked_for_its_models_does_not_lose_the_server() -> None:
    """Else it is missing until the gateway is started anew, and nothing says why."""
    upstream = BrokenUpstream(served={"a": ["m"]})
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)

    async with serving(upstream, settings=learning("a")) as gateway:
        await asyncio.sleep(5)

        assert [stats.model for stats in gateway.stats()] == ["m"]


# Readiness


@fake_time
async def test_it_is_ready_when_a_server_has_answered_and_not_before() -> None:
    """A gateway in a rolling update takes no calls that it cannot serve."""
    upstream = RecordingUpstream(down={"a", "b"})

    async with serving(upstream, pool("m", "ab")) as gateway:
        waiting = asyncio.get_running_loop().create_task(gateway.wait_ready())
        await asyncio.sleep(5)
        assert not gateway.ready

        upstream.down.discard("b")
        await waiting
        assert gateway.ready
        assert now() <= 5.5


@fake_time
async def test_a_server_that_hangs_makes_the_others_wait_for_one_probe() -> None:
    upstream = RecordingUpstream(hung={"b"})

    async with serving(upstream, pool("m"), pool("n", "b")) as gateway:
        await gateway.wait_ready()

        assert now() == HealthSettings().probe_timeout_s


@fake_time
async def test_it_stays_ready_when_all_servers_go() -> None:
    """One outage must not take every gateway out of service."""
    upstream = RecordingUpstream()

    async with serving(upstream, pool("m")) as gateway:
        upstream.down.add("a")
        with pytest.raises(NoDeployment):
            await gateway.embed(EmbeddingCall(["x"], "m"))

        assert gateway.ready


# Errors that the parts have in common


@fake_time
async def test_pools_do_not_share_their_bounds() -> None:
    """A flood for one model leaves the others alone."""
    settings = EngineSettings(admission=AdmissionSettings(queued_items_max=2))

    async with serving(
        RecordingUpstream(latency_s=1), pool("m", "a"), pool("n", "b"), settings=settings
    ) as gateway:
        flood = [gateway.embed(EmbeddingCall(["x", "y"], "m")) for _ in range(3)]
        other = gateway.embed(EmbeddingCall(["x", "y"], "n"))
        *flooded, answered = await asyncio.gather(*flood, other, return_exceptions=True)

    assert [isinstance(result, Overloaded) for result in flooded] == [False, True, True]
    assert not isinstance(answered, BaseException)


@fake_time
async def test_an_error_of_the_server_is_told_in_the_callers_terms() -> None:
    """Nothing of what the server wrote is shown."""
    upstream = RecordingUpstream(faults=[Fault(Failure.SERVER_ERROR, message="secret of http://a")])

    async with serving(upstream, pool("m")) as gateway:
        with pytest.raises(ServerFailed) as caught:
            await gateway.embed(EmbeddingCall(["x"], "m"))

    assert "secret" not in str(caught.value)

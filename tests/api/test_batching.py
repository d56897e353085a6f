"""Which calls share a batch, and that each gets its own part of it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest_asyncio

from gateway.core.settings import AdmissionSettings, BatchingSettings
from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED, config, pool, pools_of
from tests.api.media import orange
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, classes_of, score_of, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

ONE_AT_A_TIME = BatchingSettings(in_flight_max=1)
PIXELS = orange(4)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One that sends a single batch at a time to each pool."""
    async with GatewayInProcess(config(*pools_of(shared_fake), batching=ONE_AT_A_TIME)) as gateway:
        yield gateway


async def together(
    caller: Caller, fake: FakeInfinity, held: Coroutine[Any, Any, Reply], *calls: Coroutine[Any, Any, Reply]
) -> list[Reply]:
    """The answers to `calls`, all of which wait until the server has answered `held`."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate, times=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(held)
        await fake.received(1)
        waiting = [tasks.create_task(call) for call in calls]
        await caller.samples_when("in_flight_requests", 1 + len(calls))
        gate.set()
    return [task.result() for task in waiting]


async def test_what_waits_leaves_in_one_batch(caller: Caller, fake: FakeInfinity) -> None:
    """Calls of one, two and three texts, in the order in which they came."""
    texts = [["a"], ["b", "c"], ["d", "e", "f"]]

    replies = await together(caller, fake, caller.embed("held"), *map(caller.embed, texts))

    assert sorted(fake.batches[1]) == ["a", "b", "c", "d", "e", "f"]
    assert len(fake.batches) == 2
    for reply, given in zip(replies, texts, strict=True):
        assert reply.vectors == [vector_of(text).tolist() for text in given]


async def test_how_an_answer_is_written_parts_no_batch(caller: Caller, fake: FakeInfinity) -> None:
    """Encoding, dimensions and user are made here, so callers who differ in them share one item."""
    replies = await together(
        caller,
        fake,
        caller.embed("held"),
        caller.embed("a", encoding_format="base64"),
        caller.embed("a", encoding_format="float"),
        caller.embed("a", dimensions=2, encoding_format="base64"),
        caller.embed("a", dimensions=3),
        caller.embed("a", user="me"),
        caller.post("/embeddings", {"model": "bert", "input": "a", "modality": "text"}),
    )

    whole = vector_of("a").tolist()
    assert [reply.vectors[0] for reply in replies] == [whole, whole, whole[:2], whole[:3], whole, whole]
    assert fake.batches == [["held"], ["a"]]


async def test_other_parameters_are_another_batch(caller: Caller, fake: FakeInfinity) -> None:
    """Also those that only look alike: to a server 1, 1.0, true and "1" are not the same."""
    values = [1, 1.0, True, "1", 2, None]

    await together(caller, fake, caller.embed("held"), *(caller.embed("a", extra=value) for value in values))
    sent = [request.body.get("extra") for request in fake.posts if request.items == ["a"]]
    await together(caller, fake, caller.embed("held"), *(caller.embed(text, extra=7) for text in "abcd"))

    assert sorted(map(repr, sent)) == sorted(map(repr, values))
    assert sorted(fake.batches[-1]) == ["a", "b", "c", "d"]


async def test_the_order_of_parameters_parts_no_batch(caller: Caller, fake: FakeInfinity) -> None:
    """They are the same parameters."""
    await together(
        caller, fake, caller.embed("held"), caller.embed("a", x=1, y=2), caller.embed("b", y=2, x=1)
    )

    assert sorted(fake.batches[1]) == ["a", "b"]


async def test_equal_queries_share_a_request(caller: Caller, fake: FakeInfinity) -> None:
    """Whatever top_n and documents each caller wants back; a document of both is scored once."""
    replies = await together(
        caller,
        fake,
        caller.rerank("held", ["x"]),
        caller.rerank("q", ["a", "b", "c"], top_n=1),
        caller.rerank(" q ", ["b", "d"], return_documents=True),
    )

    assert sorted(fake.batches[1]) == ["a", "b", "c", "d"]
    assert len(fake.batches) == 2
    best = max(range(3), key=lambda i: score_of("q", "abc"[i]))
    assert replies[0].ranking == [(best, score_of("q", "abc"[best]))]
    assert {(r["document"]["text"], r["relevance_score"]) for r in replies[1].body["results"]} == {
        ("b", score_of("q", "b")),
        ("d", score_of("q", "d")),
    }


async def test_different_queries_never_share(caller: Caller, fake: FakeInfinity) -> None:
    """Infinity takes one query a request."""
    queries = [f"query {i}" for i in range(6)]

    replies = await together(
        caller, fake, caller.rerank("held", ["x"]), *(caller.rerank(query, ["a", "b"]) for query in queries)
    )

    assert sorted(request.body["query"] for request in fake.posts[1:]) == queries
    for query, reply in zip(queries, replies, strict=True):
        assert dict(reply.ranking) == {0: score_of(query, "a"), 1: score_of(query, "b")}


async def test_texts_to_classify_share(caller: Caller, fake: FakeInfinity) -> None:
    """As texts to embed do."""
    replies = await together(
        caller, fake, caller.classify(["held"]), caller.classify(["a", "b"]), caller.classify(["c"])
    )

    assert sorted(fake.batches[1]) == ["a", "b", "c"]
    assert [reply.body["data"] for reply in replies] == [
        [classes_of("a"), classes_of("b")],
        [classes_of("c")],
    ]


async def test_images_are_balanced_and_never_merged(caller: Caller, fake: FakeInfinity) -> None:
    """One that is broken would fail all in its request, and a call of several is not divided."""
    images = [orange(4 + size) for size in range(32)]
    calls = (caller.embed(images[:count], "clip", modality="image") for count in (1, 3, 32))

    replies = await together(caller, fake, caller.embed([PIXELS], "clip", modality="image"), *calls)

    assert sorted(map(len, fake.batches)) == [1, 1, 3, 32]
    assert {request.body["modality"] for request in fake.posts} == {"image"}
    assert [len(reply.vectors) for reply in replies] == [1, 3, 32]


async def test_a_broken_image_fails_its_caller_alone(caller: Caller, fake: FakeInfinity) -> None:
    """And it is told why."""
    broken = "data:image/png;base64,AAAA"

    replies = await together(
        caller,
        fake,
        caller.embed([PIXELS], "clip", modality="image"),
        caller.embed([PIXELS], "clip", modality="image"),
        caller.embed([PIXELS, broken], "clip", modality="image"),
    )

    assert replies[0].status == 200
    assert "ImageCorruption" in replies[1].error(400)


async def test_a_broken_text_fails_its_caller_alone(caller: Caller, fake: FakeInfinity) -> None:
    """A server refuses a batch as a whole: the input at fault is found, and the others get their vectors."""
    fake.faults.append(Fault(status=422, when=lambda request: "poison" in request.items))
    texts = [["a", "b"], ["c"], ["d", "poison"], ["e"], ["f", "g"], ["h"]]

    replies = await together(caller, fake, caller.embed("held"), *map(caller.embed, texts))

    for reply, given in zip(replies, texts, strict=True):
        if "poison" in given:
            assert "the server refused the input" in reply.error(400)
        else:
            assert reply.vectors == [vector_of(text).tolist() for text in given]
    assert (await caller.samples()).total("retries_total") == 0


async def test_calls_at_the_same_moment_leave_together_when_nothing_is_under_way(
    caller: Caller, fake: FakeInfinity
) -> None:
    """Nobody waits for company, and yet a burst is far fewer requests than calls."""
    replies = await asyncio.gather(*(caller.embed(f"text {i}") for i in range(64)))

    for i, reply in enumerate(replies):
        assert reply.vectors == [vector_of(f"text {i}").tolist()]
    assert len(fake.batches) <= 24


async def test_a_large_call_is_divided_over_all_servers() -> None:
    """No piece is larger than a batch, and both servers get about half."""
    one, two = FakeInfinity(), FakeInfinity()
    async with one, two, GatewayInProcess(config(pool("bert", one, two))) as gateway:
        one.requests.clear()
        two.requests.clear()
        async with Caller(gateway.url) as caller:
            reply = await caller.embed([f"text {i}" for i in range(512)])

    assert reply.vectors == [vector_of(f"text {i}").tolist() for i in range(512)]
    assert max(map(len, one.batches + two.batches)) == 32
    assert len(one.batches) == len(two.batches) == 8


async def test_a_call_is_divided_evenly_among_idle_servers() -> None:
    """32 texts for four of them are four batches of eight, and not ever smaller ones."""
    async with FakeInfinity() as a, FakeInfinity() as b, FakeInfinity() as c, FakeInfinity() as d:
        fakes = (a, b, c, d)
        async with GatewayInProcess(config(pool("bert", *fakes))) as gateway, Caller(gateway.url) as caller:
            for fake in fakes:
                fake.requests.clear()
            reply = await caller.embed([f"text {i}" for i in range(32)])

    assert reply.status == 200
    assert [[len(batch) for batch in fake.batches] for fake in fakes] == [[8]] * 4


# Bounds on what waits


async def test_more_than_may_wait_is_told_to_come_again() -> None:
    """429 and when, at once; what waits is answered all the same."""
    gate, four = asyncio.Event(), AdmissionSettings(queued_items_max=4)
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake), admission=four)) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.requests.clear()
        fake.faults.append(Fault(delay=gate))
        async with asyncio.TaskGroup() as calls:
            held = calls.create_task(caller.embed(["a", "b", "c", "d"]))
            await fake.received(1)
            refused = await caller.embed("e")
            gate.set()
        after = await caller.embed("e")
        samples = await caller.samples()

    assert "try again later" in refused.error(429)
    assert refused.body["error"]["type"] == "rate_limit_error"
    assert held.result().status == after.status == 200
    assert samples.value("rejected_total", reason="overloaded") == 1


async def test_only_so_many_sets_of_parameters_may_wait(caller: Caller, fake: FakeInfinity) -> None:
    """Each is a batch of its own, so a caller who varies them would undo batching for all."""
    replies = await together(
        caller, fake, caller.embed("held"), *(caller.embed(f"text {i}", extra=i) for i in range(64))
    )
    fake.requests.clear()
    calls = (caller.embed(f"text {i}", extra=i) for i in range(64))
    *_, refused, plain = await together_bounded(caller, fake, *calls)

    assert {reply.status for reply in replies} == {200}
    assert "different sets of provider parameters" in refused.error(400)
    assert plain.status == 200


async def together_bounded(
    caller: Caller, fake: FakeInfinity, *calls: Coroutine[Any, Any, Reply]
) -> list[Reply]:
    """The answers to `calls`, then those to one with parameters too many and to one without any."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate, times=1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(caller.embed("held"))
        await fake.received(1)
        waiting = [tasks.create_task(call) for call in calls]
        await caller.samples_when("in_flight_requests", 1 + len(calls))
        refused = await caller.embed("one too many", extra="another")
        plain = tasks.create_task(caller.embed("plain"))
        gate.set()
    return [*(task.result() for task in waiting), refused, plain.result()]

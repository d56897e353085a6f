"""Servers that fail: another one answers, and where there is none the error says who must act."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.core.settings import BatchingSettings
from tests.api.caller import Caller
from tests.api.configs import config, pool, preferring
from tests.api.media import orange
from tests.api.waiting import until
from tests.fakes import faults
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, score_of, vector_of
from tests.gateway_in_process import GatewayInProcess

IMAGES = [orange(4), orange(5)]
"""A call with images is not divided among servers, so both are in one batch."""

Pair = tuple[Caller, FakeInfinity, FakeInfinity]


@asynccontextmanager
async def a_pair(**options: Any) -> AsyncIterator[Pair]:
    """A gateway whose pools prefer the first of two servers."""
    async with FakeInfinity() as first, FakeInfinity() as second:
        pools = (
            preferring(name, first, second, **options) for name in ("bert", "cross", "classifier", "clip")
        )
        async with GatewayInProcess(config(*pools)) as gateway, Caller(gateway.url) as caller:
            first.requests.clear()
            second.requests.clear()
            yield caller, first, second


FAILURES: list[tuple[str, dict[str, Any], str]] = [
    ("500", {"status": 500}, "server_error"),
    ("503", {"status": 503}, "server_error"),
    ("404", {"status": 404}, "server_error"),
    ("401", {"status": 401}, "unauthorized"),
    ("429", {"status": 429}, "overloaded"),
    ("307", {"status": 307}, "bad_answer"),
    ("closed before", {"drop": "before"}, "disconnected"),
    ("reset before", {"drop": "before", "reset": True}, "disconnected"),
    ("closed in the middle", {"drop": "middle"}, "disconnected"),
    ("reset in the middle", {"drop": "middle", "reset": True}, "disconnected"),
    ("no HTTP", {"wire": b"SSH-2.0-OpenSSH_9.2\r\n"}, "bad_answer"),
    ("no JSON", {"raw": b"<html>"}, "bad_answer"),
    ("too few", {"edit": faults.fewer}, "bad_answer"),
    ("too many", {"edit": faults.more}, "bad_answer"),
    ("an index twice", {"edit": faults.duplicate_index}, "bad_answer"),
    ("a wrong index", {"edit": faults.wrong_index}, "bad_answer"),
    ("a short vector", {"edit": faults.shorter_vector}, "bad_answer"),
    ("broken base64", {"edit": faults.broken_base64}, "bad_answer"),
]


@pytest.mark.parametrize(
    ("fault", "reason"), [(f, r) for _, f, r in FAILURES], ids=[i for i, _, _ in FAILURES]
)
async def test_another_server_answers(fault: dict[str, Any], reason: str) -> None:
    """The caller does not notice; the metrics do, with the reason."""
    async with a_pair() as (caller, first, second):
        first.faults.append(Fault(**fault))

        reply = await caller.embed(IMAGES, "clip", modality="image")
        samples = await caller.samples()

    assert reply.vectors == [vector_of(repr(base64.b64decode(image[22:]))).tolist() for image in IMAGES]
    # It may be one of them that kills servers, so that they are told apart.
    apart = reason == "disconnected" or fault.get("status") == 500
    assert second.batches == ([[image] for image in IMAGES] if apart else [IMAGES])
    assert samples.value("retries_total", reason=reason) == 1
    assert samples.total("upstream_requests_total", outcome=reason) == 1
    assert samples.total("upstream_requests_total", outcome="success") == 1 + apart
    assert samples.total("upstream_bad_answers_total") == (1 if reason == "bad_answer" else 0)


@pytest.mark.proves(
    "A server that refuses connections, and its return",
    caller="nothing: the others answer; it gets work again as soon as it answers a probe",
)
async def test_another_server_answers_while_one_is_gone() -> None:
    """Refused connections cost nothing, and the server gets no more work until it is back."""
    async with a_pair() as (caller, first, second):
        await first.stop()

        replies = [await caller.embed(f"text {i}") for i in range(5)]
        during = await caller.samples()
        await first.start()
        await caller.samples_when("deployment_up", 2, model="bert")
        # The other may look faster, but it is busy.
        answers = asyncio.Event()
        second.faults.append(Fault(delay=answers))
        async with asyncio.TaskGroup() as calls:
            back = [calls.create_task(caller.embed(f"back {i}")) for i in range(4)]
            await until(lambda: any(text.startswith("back") for batch in first.batches for text in batch))
            answers.set()

    assert [reply.vectors[0] for reply in replies] == [vector_of(f"text {i}").tolist() for i in range(5)]
    assert during.value("retries_total", reason="refused") == 1
    assert during.total("deployment_up", model="bert") == 1
    assert [call.result().vectors[0] for call in back] == [vector_of(f"back {i}").tolist() for i in range(4)]


@pytest.mark.parametrize("task", ["rerank", "classify"])
async def test_every_task_is_answered_by_another(task: str) -> None:
    """What holds for vectors holds for scores and classes."""
    async with a_pair() as (caller, first, second):
        first.faults.append(Fault(status=500))

        replies = [await caller.rerank("q", ["a"])] if task == "rerank" else [await caller.classify(["a"])]

    assert replies[0].status == 200
    assert second.batches == [["a"]]
    if task == "rerank":
        assert replies[0].ranking == [(0, score_of("q", "a"))]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 500}, "server_failed"),
        ({"drop": "before"}, "server_failed"),
        ({"drop": "middle", "reset": True}, "server_failed"),
        ({"status": 401}, "server_failed"),
        ({"edit": faults.fewer}, "bad_answer"),
        ({"edit": faults.duplicate_index}, "bad_answer"),
        ({"edit": faults.broken_base64}, "bad_answer"),
        ({"raw": b"<html>"}, "bad_answer"),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else " ".join(getattr(v, "__name__", str(v)) for v in value.values())
    ),
)
async def test_where_all_fail_the_call_fails(fault: dict[str, Any], code: str) -> None:
    """502, without a word about servers, after one try at each."""
    async with a_pair() as (caller, first, second):
        for server in (first, second):
            server.faults.append(Fault(**fault))

        reply = await caller.embed(IMAGES, "clip", modality="image")
        samples = await caller.samples()

    message = reply.error(502)
    assert reply.body["error"]["code"] == code
    assert "127.0.0.1" not in message
    assert samples.total("upstream_requests_total") == 2
    assert samples.total("upstream_requests_total", outcome="success") == 0
    assert samples.total("retries_total") == 1


@pytest.mark.parametrize("embedding", [b'["a"]', b"[[1.0],[1.0,2.0]]", b"[1.0,[2.0]]"], ids=str)
async def test_a_list_that_is_no_vector_is_the_servers_fault(embedding: bytes) -> None:
    """Where a server writes floats nobody counts them on the way; an odd one is still no error of ours."""
    raw = b'{"data":[{"index":0,"embedding":%b}],"usage":{"total_tokens":1}}' % embedding
    async with (
        FakeInfinity([FakeModel("bert")]) as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.faults.append(Fault(raw=raw))
        reply = await caller.embed(["one"], encoding_format="base64")

    assert reply.error(502)


async def test_a_count_of_tokens_below_zero_is_the_servers_fault() -> None:
    """It would go into the callers' bills, and into counters that only grow."""
    raw = b'{"data":[{"index":0,"embedding":"AAAAAA=="}],"usage":{"total_tokens":-5}}'
    async with a_pair() as (caller, first, _):
        first.faults.append(Fault(raw=raw))

        reply = await caller.embed("one")

    assert reply.vectors == [vector_of("one").tolist()]


@pytest.mark.proves("Every server answers 429", caller="429 with `Retry-After`")
async def test_overload_everywhere_is_overload() -> None:
    """429 with Retry-After: an ingress takes a pod that answers 5xx out of service."""
    async with a_pair() as (caller, first, second):
        for server in (first, second):
            server.faults.append(Fault(status=429))

        reply = await caller.embed("one")
        samples = await caller.samples()

    assert "too much to do" in reply.error(429)
    assert samples.value("rejected_total", reason="overloaded") == 1


@pytest.mark.proves(
    "A server that is too slow for the time limit of its callers",
    caller="504 at the time limit, and nothing is sent a second time",
)
async def test_slowness_is_not_tried_again() -> None:
    """Infinity goes on working on what has timed out: a second server would double the load."""
    async with a_pair(timeout_s=0.2) as (caller, first, second):
        first.faults.append(Fault(hang=True))

        reply = await caller.embed("one")
        samples = await caller.samples()

    assert reply.error(504)
    assert second.asked == []
    assert samples.total("retries_total") == 0
    assert samples.total("upstream_requests_total", outcome="timeout") == 1


async def test_with_no_server_up_a_call_fails_at_once() -> None:
    """503 with Retry-After, not after a time limit: the caller can try elsewhere."""
    async with a_pair() as (caller, first, second):
        await first.stop()
        await second.stop()
        loop = asyncio.get_running_loop()

        replies = []
        for _ in range(3):
            asked = loop.time()
            replies.append(await caller.embed("one"))
            assert loop.time() - asked < 2

    for reply in replies:
        assert "no server for model 'bert' is up" in reply.error(503)
        assert "127.0.0.1" not in reply.raw.decode()


async def test_who_waits_when_the_last_server_goes_is_told_at_once() -> None:
    """Nobody stays in a queue that nobody serves."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake), batching=BatchingSettings(in_flight_max=1))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.requests.clear()
        fake.faults.append(Fault(hang=True))
        async with asyncio.TaskGroup() as calls, asyncio.timeout(10):
            waiting = [calls.create_task(caller.embed(f"text {i}")) for i in range(40)]
            await fake.received(1)
            await caller.samples_when("in_flight_requests", 40)
            await fake.stop()

    statuses = [call.result().status for call in waiting]
    assert set(statuses) <= {502, 503}
    assert 503 in statuses


async def is_served(caller: Caller) -> bool:
    return (await caller.embed("good")).status == 200


@pytest.mark.parametrize("send", [5, 20])
async def test_a_poisonous_input_fails_alone_and_does_not_take_the_servers_with_it(send: int) -> None:
    """One that makes servers hang up is refused in the end, and calls beside it are answered."""
    poison: Callable[[Any], bool] = faults.contains("poison")
    async with a_pair() as (caller, first, second):
        for server in (first, second):
            server.faults.append(Fault(drop="before", when=poison))
        for i in range(send):
            bad, good = await asyncio.gather(caller.embed("poison"), caller.embed(f"good {i}"))
            assert bad.status == (502 if i == 0 else 400)
            assert good.status == 200
        await until(lambda: is_served(caller))
        reply = await caller.embed("good")

    assert reply.vectors == [vector_of("good").tolist()]

"""After known traffic every count and every sum is exactly right."""

import asyncio
from typing import Any

import pytest

from gateway.core.settings import BatchingSettings
from tests.api.caller import Caller, Samples
from tests.api.configs import config, pool, preferring
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"


async def test_a_call_alone_is_counted_once_everywhere() -> None:
    """One call of three texts: one request, one batch, three items, as many tokens as characters."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        before = await caller.samples()
        await caller.embed(["a", "bcd", "ef"])  # all of 2 tokens
        after = await caller.samples()

    to = {"model": "bert", "deployment": f"127.0.0.1:{fake.port}"}
    assert before.total("requests_total") == before.total("batch_items_count") == 0
    assert after.value("requests_total", route=EMBED, model="bert", status=200) == 1
    assert after.total("requests_total") == 1
    assert histogram(after, "request_items", route=EMBED, model="bert") == (1, 3)
    assert histogram(after, "batch_items", **to) == (1, 3)
    assert histogram(after, "batch_calls", **to) == (1, 1)
    assert histogram(after, "batch_fill_ratio", **to) == (1, 3 / 32)
    assert histogram(after, "batch_padding_ratio", **to) == (1, 0)
    assert after.value("items_total", model="bert") == 3
    assert after.value("tokens_total", model="bert") == 6
    assert after.value("upstream_requests_total", **to, outcome="success") == 1
    assert after.total("upstream_requests_total") == 1
    assert after.value("queue_wait_seconds_count", model="bert", class_="interactive") == 1
    assert after.value("overhead_seconds_count", route=EMBED) == 1
    for counter in ("retries_total", "fallbacks_total", "rejected_total", "upstream_bad_answers_total"):
        assert after.total(counter) == 0


async def test_times_add_up() -> None:
    """What is not queue and not upstream is overhead, and throughput is items by the server's time."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.faults.append(Fault(delay=0.1))
        await caller.embed([f"a{i}" for i in range(8)])
        samples = await caller.samples()

    to = {"model": "bert", "deployment": f"127.0.0.1:{fake.port}"}
    duration = samples.value("request_duration_seconds_sum", route=EMBED, model="bert")
    waited = samples.value("queue_wait_seconds_sum", model="bert", class_="interactive")
    served = samples.value("upstream_duration_seconds_sum", **to)
    overhead = samples.value("overhead_seconds_sum", route=EMBED)
    throughput = samples.value("upstream_throughput_items_per_second_sum", **to)
    assert 0.1 <= served < duration < 5
    assert duration == pytest.approx(waited + served + overhead, abs=1e-3)
    assert throughput == pytest.approx(8 / served)


async def test_shared_batches_are_counted_by_items_and_callers() -> None:
    """A batch of one while two calls come, then both in one of five."""
    gate = asyncio.Event()
    one_at_a_time = BatchingSettings(in_flight_max=1)
    async with FakeInfinity() as fake:
        settings = config(pool("bert", fake), pool("cross", fake), batching=one_at_a_time)
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            fake.requests.clear()
            fake.faults.append(Fault(delay=gate))
            async with asyncio.TaskGroup() as calls:
                calls.create_task(caller.embed("held"))
                await fake.received(1)
                calls.create_task(caller.embed(["a1", "a2", "a3"]))
                calls.create_task(caller.embed(["b" * 20 + "1", "b" * 20 + "2"]))
                during = await caller.samples_when("queued_items", 5)
                gate.set()
            await caller.embed([f"c{i}" for i in range(9)])
            await caller.rerank("q", ["d", "e", "f", "g"])
            after = await caller.samples()

    name = f"127.0.0.1:{fake.port}"
    bert, cross = {"model": "bert", "deployment": name}, {"model": "cross", "deployment": name}

    assert during.value("in_flight_requests", model="bert") == 3
    assert during.value("in_flight_requests", model="cross") == 0
    assert during.value("queued_items", model="bert", class_="interactive") == 5
    assert during.value("queued_items", model="bert", class_="bulk") == 0
    assert during.value("deployment_in_flight_items", **bert) == 1
    assert during.value("deployment_concurrency_limit", **bert) == 1
    assert during.value("deployment_up", **bert) == during.value("deployment_up", **cross) == 1

    assert histogram(after, "batch_items", **bert) == (3, 1 + 5 + 9)
    assert histogram(after, "batch_calls", **bert) == (3, 1 + 2 + 1)
    assert histogram(after, "batch_fill_ratio", **bert) == (3, pytest.approx(15 / 32))
    # In tokens, about: 3 of 2 and 2 of 7, padded to 5 of 7.
    assert histogram(after, "batch_padding_ratio", **bert) == (3, pytest.approx(1 - 20 / 35))
    assert histogram(after, "batch_items", **cross) == (1, 4)
    assert histogram(after, "request_items", route=EMBED, model="bert") == (4, 15)
    assert histogram(after, "request_items", route=RERANK, model="cross") == (1, 4)
    assert after.value("items_total", model="bert") == 15
    assert after.value("items_total", model="cross") == 4
    assert after.value("tokens_total", model="bert") == 4 + 3 * 2 + 2 * 21 + 9 * 2
    assert after.value("tokens_total", model="cross") == 4 * 2
    assert after.value("queue_wait_seconds_count", model="bert", class_="interactive") == 3
    assert after.value("queue_wait_seconds_count", model="bert", class_="bulk") == 1
    assert after.value("queue_wait_seconds_count", model="cross", class_="interactive") == 1
    assert after.value("requests_total", route=EMBED, model="bert", status=200) == 4
    assert after.value("requests_total", route=RERANK, model="cross", status=200) == 1
    assert after.total("requests_total") == 5
    for gauge in ("in_flight_requests", "queued_items", "deployment_in_flight_items"):
        assert after.total(gauge) == 0


async def test_a_call_in_several_batches_is_one_request() -> None:
    """70 texts are three batches and one call that waited."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        await caller.embed([chr(0x4E00 + i) for i in range(70)])
        samples = await caller.samples()

    to = {"model": "bert", "deployment": f"127.0.0.1:{fake.port}"}
    assert histogram(samples, "batch_items", **to) == (3, 70)
    assert histogram(samples, "batch_calls", **to) == (3, 3)
    assert histogram(samples, "request_items", route=EMBED, model="bert") == (1, 70)
    assert samples.value("queue_wait_seconds_count", model="bert", class_="bulk") == 1
    assert samples.value("items_total", model="bert") == samples.value("tokens_total", model="bert") == 70


async def test_failures_and_retries_are_counted_where_they_happened() -> None:
    """By server and by reason; the call itself succeeded."""
    async with FakeInfinity() as first, FakeInfinity() as second:
        settings = config(preferring("bert", first, second))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            first.faults.append(Fault(status=500, times=1))
            first.faults.append(Fault(edit=lambda answer: answer["data"].clear(), times=1))
            replies = [await caller.embed("a"), await caller.embed("a"), await caller.embed("a")]
            samples = await caller.samples()

    bad, good = ({"model": "bert", "deployment": f"127.0.0.1:{fake.port}"} for fake in (first, second))
    assert [reply.status for reply in replies] == [200] * 3
    assert samples.value("upstream_requests_total", **bad, outcome="server_error") == 1
    assert samples.value("upstream_requests_total", **bad, outcome="bad_answer") == 1
    assert samples.value("upstream_requests_total", **bad, outcome="success") == 1
    assert samples.value("upstream_requests_total", **good, outcome="success") == 2
    assert samples.value("upstream_bad_answers_total", **bad, reason="count") == 1
    assert samples.value("retries_total", reason="server_error") == 1
    assert samples.value("retries_total", reason="bad_answer") == 1
    assert histogram(samples, "batch_items", **bad) == (3, 3)
    assert samples.value("upstream_throughput_items_per_second_count", **bad) == 1
    assert samples.value("items_total", model="bert") == 3
    assert samples.value("requests_total", route=EMBED, model="bert", status=200) == 3


async def test_a_failed_call_is_counted_under_its_model() -> None:
    """Whoever watches one model sees its errors, not only its successes."""
    async with FakeInfinity() as fake:
        settings = config(pool("bert", fake), pool("cross", fake))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            fake.faults.append(Fault(status=500, when=lambda request: request.body["model"] == "bert"))
            await caller.embed("one")
            await fake.stop()
            await caller.rerank("q", ["a"])
            samples = await caller.samples()

    assert samples.value("requests_total", route=EMBED, model="bert", status=502) == 1
    assert samples.value("requests_total", route=RERANK, model="cross", status=503) == 1


async def test_callers_make_no_series_of_their_own() -> None:
    """A model, a path or a parameter that nobody knows is no label: series cost memory for ever."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        await caller.embed("one", x_unknown=1)
        await caller.embed("one", "nobody")
        before = await caller.samples()
        for i in range(20):
            await caller.embed("one", f"nobody-{i}")
            await caller.embed("one", parameter=i)
            await caller.post(f"/nowhere/{i}", {})
            await caller.post(f"/v1/embeddings?a={i}", {"model": "bert", "input": "one"})
        after = await caller.samples()

    assert after.value("requests_total", route=EMBED, model="", status=404) == 21
    assert after.value("requests_total", route=EMBED, model="bert", status=200) == 41
    for name in (
        "requests_total",
        "request_items_count",
        "queue_wait_seconds_count",
        "overhead_seconds_count",
    ):
        assert after.series(name) == before.series(name)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b'{"model": "bert", "input": []}', 400), (b'{"model": "nobody", "input": "a"}', 404)],
)
async def test_a_refusal_is_a_request_and_nothing_else(body: bytes, status: int) -> None:
    """No batch, no items, no tokens, no wait."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        await caller.post(EMBED, body)
        samples = await caller.samples()

    assert samples.value("requests_total", route=EMBED, model="", status=status) == 1
    for name in ("items_total", "tokens_total", "batch_items_count", "queue_wait_seconds_count"):
        assert samples.total(name) == 0


def histogram(samples: Samples, name: str, **labels: object) -> tuple[Any, Any]:
    """Count and sum; that the buckets end with the count is asserted."""
    count = samples.value(f"{name}_count", **labels)
    assert samples.value(f"{name}_bucket", **labels, le="+Inf") == count
    return count, samples.value(f"{name}_sum", **labels)

"""Spans as a receiver of OTLP gets them from a real gateway."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.settings import PoolSettings
from gateway.errors import StartError
from gateway.observability.calls import start_tracing
from gateway.observability.tracing import Tracing
from tests.api.caller import Caller
from tests.api.configs import config, named_key, pool, preferring
from tests.fakes.infinity import FakeInfinity, Fault
from tests.gateway_in_process import GatewayInProcess
from tests.observability.receiver import Exported, Receiver

TEXT, KEY = "a text that is nobody's business", "sk-secret"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


@asynccontextmanager
async def traced(*pools: PoolSettings) -> AsyncIterator[Caller]:
    """A caller of a gateway that exports its traces, all of them by the time that it is left."""
    settings = config(*pools, keys=(named_key("rag", KEY),))
    async with (
        GatewayInProcess(settings, tracing=Tracing("1")) as gateway,
        Caller(gateway.url, authorization=f"Bearer {KEY}") as caller,
    ):
        yield caller


def split(receiver: Receiver) -> tuple[list[Exported], list[Exported]]:
    """Calls and batches. Neither a text nor a key is in any of them."""
    for raw in receiver.raw:
        assert TEXT.encode() not in raw
        assert KEY.encode() not in raw
    assert {span.kind for span in receiver.spans} <= {"server", "client"}
    assert all((span.message, span.events) == ("", 0) for span in receiver.spans)
    calls = [span for span in receiver.spans if span.kind == "server"]
    return calls, [span for span in receiver.spans if span.kind == "client"]


async def test_a_call_continues_its_callers_trace_and_the_server_continues_the_batchs(
    receiver: Receiver,
) -> None:
    async with FakeInfinity() as fake:
        async with traced(pool("bert", fake)) as caller:
            body = {"model": "bert", "input": [TEXT, "b"]}
            reply = await caller.post(
                "/v1/embeddings", body, traceparent=SAMPLED, tracestate="a=1,b=2", x_request_id="mine"
            )
        (asked,) = [request for request in fake.requests if TEXT in request.items]

    ((call,), (batch,)) = split(receiver)
    assert (call.trace_id, call.parent_id, call.trace_state) == (TRACE, PARENT, "a=1,b=2")
    assert (batch.trace_id, batch.parent_id) == (TRACE, call.span_id)
    assert call.links == {batch.span_id}
    assert batch.links == {call.span_id}
    assert asked.headers["traceparent"] == f"00-{TRACE}-{batch.span_id}-01"
    assert asked.headers["tracestate"] == "a=1,b=2"
    assert (call.name, batch.name) == ("POST /v1/embeddings", "embeddings")
    assert {call.service, batch.service} == {"infinity-gateway"}
    assert not call.is_error
    assert not batch.is_error
    assert 0 < batch.lasted_ns < call.lasted_ns

    tokens = reply.body["usage"]["prompt_tokens"]
    times = {name: call.attributes[f"infinity_gateway.{name}_seconds"] for name in ("queue", "upstream")}
    assert call.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "http.request.body.size": len(json.dumps(body)),
        "http.response.body.size": len(reply.raw),
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "bert",
        "gen_ai.usage.input_tokens": tokens,
        "infinity_gateway.request_id": "mine",
        "infinity_gateway.key": "rag",
        "infinity_gateway.items": 2,
        **{f"infinity_gateway.{name}_seconds": seconds for name, seconds in times.items()},
    }
    assert times["upstream"] > 0
    assert batch.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "bert",
        "gen_ai.usage.input_tokens": tokens,
        "server.address": "127.0.0.1",
        "server.port": fake.port,
        "infinity_gateway.deployment": f"127.0.0.1:{fake.port}",
        "infinity_gateway.items": 2,
        "infinity_gateway.calls": 1,
    }


async def test_two_calls_in_a_batch_are_linked_with_it(receiver: Receiver) -> None:
    async with FakeInfinity() as fake:
        release = asyncio.Event()
        fake.faults.append(Fault(delay=release, when=lambda request: "first" in request.items))
        async with traced(pool("bert", fake)) as caller:
            # While the server has the first, the others wait for company.
            calls = [asyncio.create_task(caller.embed(["first"] * 16))]
            while "first" not in fake.batches[-1]:
                await fake.received(len(fake.batches) + 1)
            calls += [asyncio.create_task(caller.embed(text)) for text in ("a", "b")]
            while (await caller.samples()).total("in_flight_requests") < 3:
                pass
            release.set()
            replies = await asyncio.gather(*calls)

    assert [reply.status for reply in replies] == [200] * 3
    calls_seen, batches = split(receiver)
    together = {call.span_id: call for call in calls_seen if call.attributes["infinity_gateway.items"] == 1}
    (batch,) = [each for each in batches if each.attributes["infinity_gateway.items"] == 2]
    assert batch.links == together.keys()
    assert len(batch.links) == 2
    assert all(batch.span_id in call.links for call in together.values())
    assert batch.parent_id in together
    assert len({call.trace_id for call in together.values()}) == 2


async def test_a_call_that_fails_is_an_error_without_its_words(receiver: Receiver) -> None:
    async with FakeInfinity() as fake, traced(pool("bert", fake)) as caller:
        fake.faults.append(Fault(status=500, raw=TEXT.encode()))
        failed = await caller.embed(TEXT)
        fake.faults.clear()
        wrong = await caller.embed([])
        unknown = await caller.embed(TEXT, KEY)

    assert [reply.status for reply in (failed, wrong, unknown)] == [502, 400, 404]
    calls, batches = split(receiver)
    assert [(call.attributes["http.response.status_code"], call.is_error) for call in calls] == [
        *((502, True), (400, False), (404, False)),
    ]
    assert calls[0].attributes["error.type"] == "502"
    assert {batch.attributes["error.type"] for batch in batches if batch.is_error} == {"server_error"}


async def test_a_retry_is_another_batch(receiver: Receiver) -> None:
    async with (
        FakeInfinity() as first,
        FakeInfinity() as second,
        traced(preferring("bert", first, second)) as caller,
    ):
        first.faults.append(Fault(status=503))
        reply = await caller.embed("a")

    assert reply.status == 200
    ((call,), (failed, right)) = split(receiver)
    assert (failed.attributes["server.port"], right.attributes["server.port"]) == (first.port, second.port)
    assert (failed.is_error, right.is_error, call.is_error) == (True, False, False)
    assert failed.attributes["error.type"] == "server_error"
    assert call.links == {failed.span_id, right.span_id}


@pytest.mark.parametrize(
    ("sampler", "share", "sent", "count"),
    [
        ("parentbased_always_on", "", {}, 20),
        ("parentbased_always_on", "", {"traceparent": UNSAMPLED}, 0),
        ("parentbased_always_on", "", {"traceparent": "00-nonsense"}, 20),
        ("parentbased_always_off", "", {}, 0),
        ("parentbased_always_off", "", {"traceparent": SAMPLED}, 20),
        ("parentbased_traceidratio", "1.0", {}, 20),
        ("parentbased_traceidratio", "0.0", {}, 0),
        ("always_on", "", {"traceparent": UNSAMPLED}, 20),
    ],
)
async def test_samplers_decide(
    sampler: str,
    share: str,
    sent: dict[str, str],
    count: int,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    if share:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    async with FakeInfinity() as fake, traced(pool("bert", fake)) as caller:
        body = {"model": "bert", "input": "a"}
        for _ in range(20):
            assert (await caller.post("/v1/embeddings", body, **sent)).status == 200

    calls, batches = split(receiver)
    assert (len(calls), len(batches)) == (count, count)
    has_head = [request for request in fake.requests if "traceparent" in request.headers]
    assert len(has_head) == count


async def test_a_share_of_traces_is_that_share(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision that was made twice, with two ids, would leave a quarter."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    tracing = Tracing("1")
    begun = [tracing.begin("/v1/embeddings", {}) for _ in range(400)]
    kept = [span for span in begun if span]
    await tracing.close(5)

    assert 150 < len(kept) < 250
    assert len({span.trace_id for span in kept}) == len(kept)


async def test_what_cannot_be_exported_does_not_hold_up_the_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.holds = asyncio.Event()
    tracing = Tracing("1")
    span = tracing.begin("/v1/embeddings", {})
    assert span
    span._span.end()
    began = asyncio.get_running_loop().time()
    await tracing.close(0.2)

    assert asyncio.get_running_loop().time() - began < 5
    assert not receiver.raw
    receiver.holds.set()
    assert len(await receiver.wait(bool)) == 1


# Whether there is any

NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("wanted", "environ", "is_on"),
    [
        (None, {}, False),
        (None, NAMED, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        (None, NAMED | {"OTEL_SDK_DISABLED": "true"}, False),
        (None, NAMED | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (None, NAMED | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (None, NAMED | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        (True, {}, True),
        (False, NAMED, False),
    ],
)
async def test_the_environment_turns_it_on_and_the_setting_decides(
    wanted: bool | None, environ: dict[str, str], is_on: bool
) -> None:
    tracing = start_tracing(wanted, "1", environ)
    if tracing:
        await tracing.close(5)

    assert (tracing is not None) == is_on


@pytest.mark.parametrize(
    ("environ", "missing", "words"),
    [
        ({}, True, "pip install 'infinity-gateway[otel]'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
    ],
)
def test_who_asks_for_what_cannot_be_is_told_at_the_start(
    environ: dict[str, str],
    missing: bool,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An environment may be made for all that runs in a cluster, and only gives a warning."""
    if missing:
        monkeypatch.delitem(sys.modules, "gateway.observability.tracing")
        monkeypatch.setitem(sys.modules, "opentelemetry.context", None)

    with pytest.raises(StartError) as error:
        start_tracing(True, "1", environ)
    assert words in str(error.value)
    assert start_tracing(None, "1", NAMED | environ) is None
    assert words in caplog.text

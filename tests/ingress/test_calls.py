"""Calls through nginx and Envoy, set up as in deploy/ingress, to two gateways with three stand-ins."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller, Reply, Samples
from tests.api.waiting import until
from tests.fakes.faults import Fault, posted
from tests.fakes.infinity import FakeInfinity
from tests.gateway_process import GatewayProcess
from tests.ingress.conftest import KEY, LARGE
from tests.ingress.proxies import Ingress, Kind, Relay, Times

pytestmark = pytest.mark.asyncio(loop_scope="package")

AUTHORIZED = f"Bearer {KEY}"
ITEMS = LimitsSettings().items_max
BODY_BYTES = LimitsSettings().body_bytes_max


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Caller]:
    async with Caller(url, Authorization=AUTHORIZED) as caller:
        yield caller


@pytest.fixture
def held(servers: list[FakeInfinity]) -> Iterator[asyncio.Event]:
    """The servers answer when this is set."""
    gate = asyncio.Event()
    for server in servers:
        server.faults.append(Fault(delay=gate, when=posted))
    yield gate
    gate.set()
    for server in servers:
        server.faults.clear()


async def sampled(gateways: list[GatewayProcess]) -> list[Samples]:
    found = []
    for gateway in gateways:
        async with calling(gateway.url) as caller:
            found.append(await caller.samples())
    return found


async def total(gateways: list[GatewayProcess], name: str, **labels: object) -> float:
    """Of both."""
    return sum(samples.total(name, **labels) for samples in await sampled(gateways))


async def calls(gateways: list[GatewayProcess], status: int | None = None) -> float:
    """That both have ended, with that status, or with any."""
    labels = {} if status is None else {"status": status}
    return await total(gateways, "requests_total", route="/v1/embeddings", **labels)


# Sizes


def body_of(size: int) -> tuple[bytes, list[str]]:
    """A call of exactly so many bytes, and its texts."""
    texts = [f"{i} " for i in range(ITEMS)]
    each, more = divmod(size - len(_body(texts)), ITEMS)
    texts = [text + "x" * (each + (i < more)) for i, text in enumerate(texts)]
    return _body(texts), texts


def _body(texts: list[str]) -> bytes:
    return json.dumps({"model": LARGE.name, "input": texts}).encode()


async def test_the_largest_call_is_answered_and_a_larger_one_is_told_its_limit(ingress: Ingress) -> None:
    """2,048 texts of 16 KiB, 2,048 vectors of 1,024 floats."""
    largest, texts = body_of(BODY_BYTES)
    assert len(largest) == BODY_BYTES
    async with calling(ingress.url) as caller:
        reply = await caller.post("/v1/embeddings", largest)
        refused = await caller.post("/v1/embeddings", largest + b" ")

    assert len(reply.raw) > 20e6
    assert np.array_equal(reply.vectors, [LARGE.embed(text) for text in texts])
    assert str(BODY_BYTES) in refused.error(413)


# Connections


async def test_connections_are_kept_on_both_sides(
    kind: Kind, gateways: list[GatewayProcess], tmp_path: Path
) -> None:
    callers, rounds = 8, 20
    async with (
        Relay(gateways[0].url) as behind,
        Ingress(kind, [behind.url], tmp_path) as ingress,
        Relay(ingress.url) as before,
        calling(before.url) as caller,
    ):
        for number in range(rounds):
            texts = [f"{number} {i}" for i in range(callers)]
            replies = await asyncio.gather(*map(caller.embed, texts))
            assert [reply.status for reply in replies] == [200] * callers
        assert before.connections <= callers
        assert behind.connections <= callers + 1  # over which Envoy looks at readiness


async def test_the_ingress_is_the_first_to_close_a_connection(
    kind: Kind, gateways: list[GatewayProcess], tmp_path: Path
) -> None:
    async with (
        Relay(gateways[0].url) as relay,
        Ingress(kind, [relay.url], tmp_path, Times(idle_s=0.1)) as ingress,
        calling(ingress.url) as caller,
    ):
        assert (await caller.embed("once")).status == 200
        await until(lambda: "ingress" in relay.ended_by)
        assert "gateway" not in relay.ended_by


@pytest.mark.proves(
    "Calls that come just when an ingress gives up their connection to the gateway",
    caller="nothing: nginx and Envoy keep connections for less long than the gateway",
)
async def test_calls_around_the_end_of_a_connection_are_answered(
    kind: Kind, gateways: list[GatewayProcess], tmp_path: Path
) -> None:
    idle_s, random = 0.2, Random(7)
    async with (
        Relay(gateways[0].url) as relay,
        Ingress(kind, [relay.url], tmp_path, Times(idle_s=idle_s)) as ingress,
        calling(ingress.url) as caller,
    ):

        async def call_on(number: int) -> list[int]:
            statuses = []
            for call in range(5):
                statuses.append((await caller.embed(f"{number} {call}")).status)
                await asyncio.sleep(idle_s + random.uniform(-0.01, 0.01))
            return statuses

        found = await asyncio.gather(*map(call_on, range(32)))

    assert found == [[200] * 5] * 32
    assert relay.ended_by.count("ingress") > 32, "no connection came to its end"
    assert "gateway" not in relay.ended_by


# Tries


@asynccontextmanager
async def relayed(
    kind: Kind, gateways: list[GatewayProcess], folder: Path
) -> AsyncIterator[tuple[Caller, list[Relay]]]:
    """A caller of an ingress, and what is between that and the gateways."""
    async with (
        Relay(gateways[0].url) as first,
        Relay(gateways[1].url) as second,
        Ingress(kind, [first.url, second.url], folder) as ingress,
        calling(ingress.url) as caller,
    ):
        yield caller, [first, second]


@pytest.mark.proves(
    "A gateway that dies with a call, behind nginx and Envoy",
    caller="nothing: the ingress gives the call to the other gateway, once",
)
@pytest.mark.parametrize("breaking", [1, 2])
async def test_a_connection_that_breaks_under_a_call_costs_one_more_try(
    kind: Kind, gateways: list[GatewayProcess], tmp_path: Path, breaking: int
) -> None:
    """On a kept connection and on a new one. Where both gateways fail, two tries are all."""
    broken: list[int] = []

    def breaks(number: int, data: bytes) -> bool:
        if b'"input": "broken"' in data:
            broken.append(number)
            return len(broken) <= breaking
        return False

    async with relayed(kind, gateways, tmp_path) as (caller, relays):
        for _ in range(4):
            assert (await caller.embed("before")).status == 200
        for number, relay in enumerate(relays):
            relay.breaks = partial(breaks, number)
        reply = await caller.embed("broken")

    assert sorted(broken) == [0, 1]
    assert reply.status == (200 if breaking == 1 else {"nginx": 502, "envoy": 503}[kind])


async def test_refusals_are_not_tried_again(
    ingress: Ingress, gateways: list[GatewayProcess], held: asyncio.Event
) -> None:
    """Under overload, past a call's time, and without servers: each call is one call to one gateway."""
    before = {status: await calls(gateways, status) for status in (429, 503, 504)}
    async with calling(ingress.url) as caller:
        absent = await caller.embed("a text", "absent")
        late = await caller.post(
            "/v1/embeddings", {"model": "bert", "input": "too late"}, x_request_timeout="0.1"
        )
        waiting = [asyncio.create_task(fill(gateway, f"fill {gateway.pid}")) for gateway in gateways]
        await until(lambda: both_full(gateways))
        refused = [await caller.embed([f"more {i} {n}" for n in range(ITEMS)]) for i in range(4)]
        held.set()
        taken = await asyncio.gather(*waiting)

    assert absent.error(503)
    assert late.error(504)
    assert all(reply.error(429) for reply in refused)
    assert [reply.status for reply in taken] == [200, 200]
    after = {status: await calls(gateways, status) for status in (429, 503, 504)}
    assert after == {429: before[429] + len(refused), 503: before[503] + 1, 504: before[504] + 1}


async def fill(gateway: GatewayProcess, word: str) -> Reply:
    async with calling(gateway.url) as caller:
        return await caller.embed([f"{word} {n}" for n in range(ITEMS)])


async def both_full(gateways: list[GatewayProcess]) -> bool:
    return all(samples.total("queued_items") > ITEMS / 2 for samples in await sampled(gateways))


async def test_a_call_that_takes_too_long_for_the_ingress_is_not_tried_again(
    kind: Kind, gateways: list[GatewayProcess], held: asyncio.Event, tmp_path: Path
) -> None:
    urls = [gateway.url for gateway in gateways]
    before, gone = await calls(gateways), await calls(gateways, 499)
    async with (
        Ingress(kind, urls, tmp_path, Times(answer_s=0.4, retry_s=0.2)) as ingress,
        calling(ingress.url) as caller,
    ):
        reply = await caller.embed("slow")
        assert reply.status == 504
        await until(lambda: have_ended(gateways, gone + 1, status=499))
    assert await calls(gateways) == before + 1


async def have_ended(gateways: list[GatewayProcess], wanted: float, status: int) -> bool:
    return await calls(gateways, status) == wanted


# Callers


@pytest.mark.proves(
    "A caller who hangs up while its texts wait, behind nginx and Envoy",
    caller="nothing; what of it had not been sent to a server never is",
)
async def test_what_waits_for_a_caller_who_hung_up_is_never_sent(
    ingress: Ingress, gateways: list[GatewayProcess], servers: list[FakeInfinity], held: asyncio.Event
) -> None:
    gone = await calls(gateways, 499)
    texts = [f"leaving {i}" for i in range(ITEMS)]
    async with calling(ingress.url) as caller:
        leaving = asyncio.create_task(caller.embed(texts))
        await until(lambda: are_queued(gateways, above=ITEMS / 2))
        leaving.cancel()
        await asyncio.wait([leaving])
        await until(lambda: have_ended(gateways, gone + 1, status=499))
        held.set()
        assert (await caller.embed("after")).status == 200

    assert await total(gateways, "queued_items") == 0
    sent = {item for server in servers for batch in server.batches for item in batch}
    assert len(sent.intersection(texts)) <= 2 * 32 * len(servers)
    for server in servers:
        server.requests.clear()


async def are_queued(gateways: list[GatewayProcess], above: float) -> bool:
    return await total(gateways, "queued_items") > above


async def test_a_callers_request_id_goes_all_the_way(
    ingress: Ingress, kind: Kind, gateways: list[GatewayProcess]
) -> None:
    own = f"the-callers-own-by-{kind}"  # the gateways have been behind others before
    async with calling(ingress.url) as caller:
        body = {"model": "bert", "input": "a text"}
        named = await caller.post("/v1/embeddings", body, x_request_id=own)
        unnamed = [await caller.post("/v1/embeddings", body) for _ in range(2)]

    assert [reply.status for reply in (named, *unnamed)] == [200] * 3
    ids = [reply.headers["x-request-id"] for reply in (named, *unnamed)]
    assert ids[0] == own
    assert len({*ids, ""}) == 4
    for each in ids:
        await until(lambda each=each: lines_with(gateways, each) == 1)


def lines_with(gateways: list[GatewayProcess], text: str) -> int:
    return sum(text in line for gateway in gateways for line in gateway.output)


async def test_what_is_said_of_the_callers_address_is_not_believed(
    ingress: Ingress, gateways: list[GatewayProcess]
) -> None:
    """Neither by callers nor by the ingress, which adds to it: only the key says who calls."""
    claims = {
        "X-Forwarded-For": "127.0.0.1, 203.0.113.7",
        "X-Real-IP": "203.0.113.7",
        "Forwarded": "for=203.0.113.7;host=localhost",
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-User": "admin",
    }

    async def ask(**headers: str) -> Reply:
        async with Caller(ingress.url, **headers) as caller:
            return await caller.embed("claimed")

    assert (await ask(**claims)).error(401)
    assert (await ask(**claims, Authorization=AUTHORIZED)).status == 200
    assert (await ask(Authorization=AUTHORIZED)).status == 200
    assert lines_with(gateways, "203.0.113.7") == 0

"""How long a server says that requests were with it."""

import asyncio

import pytest

from gateway.pool import ServerFacts
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.infinity import FakeInfinity
from tests.real_infinity import RealInfinity, ServedModel
from tests.upstream.listening import listening
from tests.upstream.requests import TIMEOUT_S, deployment, documents, texts

PAUSE_S = 0.004
"""Infinity sleeps 5 ms on each call that finds it idle."""
EMBEDS = frozenset({"embed"})
RERANKS = frozenset({"rerank"})


async def test_it_grows_with_what_is_asked(upstream: InfinityUpstream, real_infinity: RealInfinity) -> None:
    """By no more than we wait, and at least by what it sleeps itself; each kind of call for itself."""
    bert, cross = deployment(real_infinity.url, "bert"), deployment(real_infinity.url, "cross")
    await upstream.send(bert, texts("to have been asked"), TIMEOUT_S)
    await upstream.send(cross, documents("query", "to have been asked"), TIMEOUT_S)
    before = await upstream.spent_s(bert, EMBEDS, TIMEOUT_S)
    before_rerank = await upstream.spent_s(cross, RERANKS, TIMEOUT_S)
    loop = asyncio.get_running_loop()

    began = loop.time()
    for _ in range(10):
        await upstream.send(bert, texts("a text"), TIMEOUT_S)
    waited_s = loop.time() - began

    after = await upstream.spent_s(bert, EMBEDS, TIMEOUT_S)
    assert before is not None
    assert after is not None
    assert 10 * PAUSE_S < after - before <= waited_s
    assert await upstream.spent_s(cross, RERANKS, TIMEOUT_S) == before_rerank


async def test_it_is_found_above_a_prefix_too(upstream: InfinityUpstream) -> None:
    """Infinity serves its metrics at the root, whatever prefix its other routes have."""
    with RealInfinity([ServedModel("debug")], engine="debugengine", url_prefix="/v1", api_key="k") as server:
        for base in (server.url, server.url.removesuffix("/v1")):
            asked = deployment(base, "debug", key="k")
            facts: ServerFacts = await upstream.inspect(asked, TIMEOUT_S)
            assert await upstream.spent_s(asked, facts.capabilities, TIMEOUT_S)


async def test_a_server_without_metrics_tells_nothing(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    assert await upstream.spent_s(deployment(fake_infinity), EMBEDS, TIMEOUT_S) is None


@pytest.mark.parametrize("told", ["nan", "+Inf", "1.2.3", "-4", "much"])
async def test_what_is_no_time_is_not_told(upstream: InfinityUpstream, told: str) -> None:
    """Whatever answers there, the gateway goes on asking the others."""
    line = f'http_request_duration_seconds_sum{{handler="/embeddings",method="POST"}} {told}\n'.encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))
        await writer.drain()

    async with listening(handle) as url:
        assert await upstream.spent_s(deployment(url), EMBEDS, TIMEOUT_S) is None

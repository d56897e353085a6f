"""The examples do what they say, with the real packages. `sdk.py` needs none: tests/sdk runs it."""

import re

import numpy as np
import pytest

from tests.api.caller import Caller
from tests.clients.inputs import EMBEDDER, RERANKER
from tests.clients.running import KEY, clients_executable, run
from tests.gateway_process import ROOT, GatewayProcess
from tests.real_infinity import RealInfinity

pytestmark = pytest.mark.asyncio(loop_scope="package")

PASSAGES = [
    "The Eiffel Tower was finished in 1889 and is 330 metres tall.",
    "Bread is made of flour, water, salt and yeast.",
    "Paris has been the capital of France since the Middle Ages.",
    "Berlin became the capital of Germany again in 1990.",
    "Cats sleep for twelve to sixteen hours a day.",
]
QUESTION = "Which city is the capital of France?"


async def example(name: str, gateways: tuple[GatewayProcess, GatewayProcess]) -> str:
    environ = {
        "OPENAI_BASE_URL": f"{gateways[0].url}/v1",
        "OPENAI_API_KEY": KEY,
        "EMBEDDING_MODEL": EMBEDDER,
        "RERANK_MODEL": RERANKER,
    }
    return await run([clients_executable("python"), ROOT / "examples" / name], environ)


async def embedded(direct: Caller, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    reply = await direct.post("/embeddings", {"model": EMBEDDER, "input": texts})
    return np.array(reply.vectors)


async def test_the_openai_example_prints_infinitys_similarities(
    gateways: tuple[GatewayProcess, GatewayProcess], infinity: RealInfinity
) -> None:
    printed = await example("openai_client.py", gateways)
    async with Caller(infinity.url) as direct:
        cat, kitten, stock = await embedded(direct, ["cat", "kitten", "stock"])
    similar = [float(number) for number in re.findall(r"-?\d\.\d\d\b", printed)]
    assert similar == pytest.approx([cat @ kitten, cat @ stock], abs=0.006)
    assert f"3 vectors of {len(cat)} numbers from {EMBEDDER}" in printed


async def test_the_langchain_example_finds_and_ranks_as_infinity_does(
    gateways: tuple[GatewayProcess, GatewayProcess], infinity: RealInfinity
) -> None:
    printed = await example("rag_langchain.py", gateways)
    async with Caller(infinity.url) as direct:
        [question, *passages] = await embedded(direct, [QUESTION, *PASSAGES])
        nearest = np.argsort(np.array(passages) @ question)[::-1][:3]
        found = [PASSAGES[i] for i in nearest]
        body = {"model": RERANKER, "query": QUESTION, "documents": found}
        [(best, score), *_] = (await direct.post("/rerank", body)).ranking
    assert str(found) in printed
    assert f"{found[best]!r} ({score:.3f})" in printed

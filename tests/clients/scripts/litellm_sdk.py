import asyncio
from typing import Any

import litellm

from tests.clients.inputs import (
    DIMENSIONS,
    DOCUMENTS,
    EMBEDDER,
    MANY,
    QUERY,
    RAW_RERANKER,
    RERANKER,
    TEXTS,
    TOP_N,
)
from tests.clients.scripts.calls import KEY, URL, Calls, report

litellm.telemetry = False
calls = Calls("litellm")


def embedding(provider: str, path: str = "", given: Any = TEXTS, **options: Any) -> Any:
    answer = litellm.embedding(
        model=f"{provider}/{EMBEDDER}", input=given, api_base=URL + path, api_key=KEY, **options
    )
    return [row["embedding"] for row in answer.data]


async def aembedding(provider: str) -> Any:
    several = (
        litellm.aembedding(model=f"{provider}/{EMBEDDER}", input=[text], api_base=URL, api_key=KEY)
        for text in MANY
    )
    return [answer.data[0]["embedding"] for answer in await asyncio.gather(*several)]


def rerank(provider: str, path: str = "", model: str = RERANKER, **options: Any) -> Any:
    answer = litellm.rerank(
        model=f"{provider}/{model}",
        query=QUERY,
        documents=DOCUMENTS,
        api_base=URL + path,
        api_key=KEY,
        **options,
    )
    return ranking(answer)


async def arerank(provider: str, **options: Any) -> Any:
    answer = await litellm.arerank(
        model=f"{provider}/{RERANKER}",
        query=QUERY,
        documents=DOCUMENTS,
        api_base=URL,
        api_key=KEY,
        **options,
    )
    return ranking(answer)


def ranking(answer: Any) -> Any:
    """`[index, score]`, and the document where there is one."""
    return [
        [row["index"], row["relevance_score"], *([row["document"]["text"]] if "document" in row else [])]
        for row in answer.results
    ]


calls("embedding infinity/", "vectors", embedding, "infinity")
calls("embedding infinity/", "vectors", embedding, "infinity", "/v1")
calls("embedding infinity/", "vectors", embedding, "infinity", "/infinity")
calls("embedding infinity/", "shortened", embedding, "infinity", dimensions=DIMENSIONS)
calls("aembedding infinity/", "many", lambda: asyncio.run(aembedding("infinity")))
calls("embedding openai/", "vectors", embedding, "openai", "/v1")
calls(
    "embedding openai/",
    "shortened",
    embedding,
    "openai",
    "/v1",
    dimensions=DIMENSIONS,
    allowed_openai_params=["dimensions"],
)
calls("embedding litellm_proxy/", "vectors", embedding, "litellm_proxy", "/v1")
calls("embedding hosted_vllm/", "vectors", embedding, "hosted_vllm", "/v1")
calls("rerank infinity/", "echoed", rerank, "infinity")
calls("rerank infinity/", "echoed", rerank, "infinity", "/infinity")
# litellm_proxy/ and infinity/ look alike on /v1/rerank, and want their documents in different shapes.
calls("rerank infinity/", "ranking", rerank, "infinity", "/v1", return_documents=False)
calls("rerank infinity/", "top", rerank, "infinity", top_n=TOP_N, return_documents=False)
calls("rerank infinity/", "raw", rerank, "infinity", model=RAW_RERANKER, return_documents=False)
calls("arerank infinity/", "ranking", lambda: asyncio.run(arerank("infinity")))
calls("arerank infinity/", "echoed", lambda: asyncio.run(arerank("infinity", return_documents=True)))
for provider in ("cohere", "litellm_proxy", "jina_ai"):
    calls(f"rerank {provider}/", "echoed", rerank, provider, return_documents=True)
    calls(f"rerank {provider}/", "ranking", rerank, provider, return_documents=False)
# As infinity/ on /rerank, and it wants Cohere's documents there.
calls("rerank hosted_vllm/", "ranking", rerank, "hosted_vllm", return_documents=False)


def ask(key: str, model: str) -> Any:
    # For infinity/ LiteLLM knows no classes of errors.
    return litellm.embedding(model=f"openai/{model}", input=TEXTS, api_base=f"{URL}/v1", api_key=key)


calls.fails("a wrong key", ask, "sk-another", EMBEDDER)
calls.fails("an unknown model", ask, KEY, "nobody")
report(calls)

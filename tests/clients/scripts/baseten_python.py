import asyncio
from typing import Any

from baseten_performance_client import PerformanceClient

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, MANY, QUERY, RERANKER, TEXTS
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("baseten-performance-client")
client = PerformanceClient(base_url=URL, api_key=KEY)


def embed(texts: list[str] = TEXTS, **options: Any) -> Any:
    return client.embed(texts, model=EMBEDDER, **options).numpy().tolist()


async def asynchronous() -> Any:
    return (await client.async_embed(MANY, model=EMBEDDER)).numpy().tolist()


def rerank(**options: Any) -> Any:
    answer = client.rerank(QUERY, DOCUMENTS, model=RERANKER, **options)
    return [[row.index, row.score, *([row.text] if row.text else [])] for row in answer.data]


def answered() -> Any:
    headers = client.rerank(QUERY, DOCUMENTS, model=RERANKER).response_headers[0]
    return {name: headers.get(name) for name in ("content-type", "content-encoding")}


calls("embed", "vectors", embed)
calls("embed", "shortened", embed, dimensions=DIMENSIONS)
calls("embed", "many", embed, MANY)
calls("async_embed", "many", asyncio.run, asynchronous())
calls("rerank", "ranking", rerank)
calls("rerank", "raw", rerank, raw_scores=True)
calls("rerank", "echoed", rerank, return_text=True)
calls("rerank", "headers", answered)
report(calls)

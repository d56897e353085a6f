import asyncio
from typing import Any

import voyageai

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("voyageai")
client = voyageai.Client(api_key=KEY, base_url=f"{URL}/v1")


def embed(**options: Any) -> Any:
    return client.embed(TEXTS, model=EMBEDDER, **options).embeddings


def ranking(answer: Any) -> Any:
    return [[row.index, row.relevance_score, row.document] for row in answer.results]


def rerank(**options: Any) -> Any:
    return ranking(client.rerank(QUERY, DOCUMENTS, model=RERANKER, **options))


async def asynchronous() -> Any:
    own = voyageai.AsyncClient(api_key=KEY, base_url=f"{URL}/v1")
    return (await own.embed(TEXTS, model=EMBEDDER)).embeddings


calls("embed", "vectors", embed)
calls("embed", "vectors", embed, input_type="document")
calls("embed", "shortened", embed, output_dimension=DIMENSIONS)
calls("embed (async)", "vectors", asyncio.run, asynchronous())
calls("rerank", "echoed", rerank)
calls("rerank", "top echoed", rerank, top_k=TOP_N)
calls.fails("int8", embed, output_dtype="int8")
report(calls)

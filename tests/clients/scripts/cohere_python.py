import asyncio
from typing import Any

import cohere

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("cohere")
first = cohere.Client(api_key=KEY, base_url=URL)
second = cohere.ClientV2(api_key=KEY, base_url=URL)


def rerank(using: Any, **options: Any) -> Any:
    return using.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, **options)


def ranking(answer: Any) -> Any:
    return [[result.index, result.relevance_score] for result in answer.results]


def echoed(answer: Any) -> Any:
    return [[result.index, result.relevance_score, result.document.text] for result in answer.results]


def embed(using: Any, **options: Any) -> Any:
    return using.embed(texts=TEXTS, model=EMBEDDER, input_type="search_document", **options)


async def asynchronous() -> Any:
    async with cohere.AsyncClientV2(api_key=KEY, base_url=URL) as client:
        return ranking(await rerank(client))


calls("Client.rerank", "ranking", lambda: ranking(rerank(first)))
calls("Client.rerank", "top", lambda: ranking(rerank(first, top_n=TOP_N)))
calls("Client.rerank", "echoed", lambda: echoed(rerank(first, return_documents=True)))
calls("ClientV2.rerank", "ranking", lambda: ranking(rerank(second)))
calls("ClientV2.rerank", "top", lambda: ranking(rerank(second, top_n=TOP_N, max_tokens_per_doc=4096)))
calls("AsyncClientV2.rerank", "ranking", asyncio.run, asynchronous())
calls("Client.embed", "vectors", lambda: embed(first).embeddings)
calls("Client.embed", "vectors", lambda: embed(first, embedding_types=["float"]).embeddings.float_)
calls("ClientV2.embed", "vectors", lambda: embed(second, embedding_types=["float"]).embeddings.float_)
calls(
    "ClientV2.embed",
    "shortened",
    lambda: embed(second, embedding_types=["float"], output_dimension=DIMENSIONS).embeddings.float_,
)
stranger = cohere.ClientV2(api_key="sk-another", base_url=URL)
calls.fails("a wrong key", rerank, stranger)
calls.fails("an unknown model", second.rerank, model="nobody", query=QUERY, documents=DOCUMENTS)
calls.fails("no documents", second.rerank, model=RERANKER, query=QUERY, documents=[])
calls.fails("int8", embed, second, embedding_types=["int8"])
report(calls)

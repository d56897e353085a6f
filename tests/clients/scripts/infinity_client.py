from typing import Any

from infinity_client import AuthenticatedClient
from infinity_client.api.default import embeddings, models
from infinity_client.api.default import rerank as reranking
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("infinity-client")


def embed(client: Any, **options: Any) -> Any:
    body = OpenAIEmbeddingInputText(input_=TEXTS, model=EMBEDDER, **options)
    return [row.embedding for row in embeddings.sync(client=client, body=body).data]


def rerank(client: Any, **options: Any) -> Any:
    body = RerankInput(query=QUERY, documents=DOCUMENTS, **{"model": RERANKER, **options})
    results = reranking.sync(client=client, body=body).results
    return [
        [result.index, result.relevance_score, *([result.document] if result.document else [])]
        for result in results
    ]


def listed(client: Any) -> Any:
    return [model.id for model in models.sync(client=client).data]


for path in ("/v1", "", "/infinity"):
    client = AuthenticatedClient(base_url=URL + path, token=KEY, raise_on_unexpected_status=True)
    with client as client:
        calls("embeddings", "vectors", embed, client)
        calls("embeddings", "shortened", embed, client, dimensions=DIMENSIONS)
        calls("rerank", "ranking", rerank, client)
        calls("rerank", "top", rerank, client, top_n=TOP_N)
        calls("rerank", "raw", rerank, client, raw_scores=True)
        calls("models", "models", listed, client)
        if path == "/infinity":  # Elsewhere documents are Cohere's objects.
            calls("rerank", "echoed", rerank, client, return_documents=True)
report(calls)

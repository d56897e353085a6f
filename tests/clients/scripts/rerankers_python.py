from typing import Any

from rerankers.models.api_rankers import APIRanker

from tests.clients.inputs import DOCUMENTS, QUERY, RERANKER
from tests.clients.scripts.calls import KEY, URL, Calls, report

calls = Calls("rerankers")


def ranking(provider: str, path: str) -> Any:
    ranker = APIRanker(RERANKER, KEY, provider, verbose=0, url=URL + path)
    ranked = ranker.rank(QUERY, DOCUMENTS, doc_ids=list(range(len(DOCUMENTS))))
    return [[result.doc_id, result.score] for result in ranked.results]


calls("cohere", "ranking", ranking, "cohere", "/v1/rerank")
calls("jina", "ranking", ranking, "jina", "/v1/rerank")
calls("voyage", "ranking", ranking, "voyage", "/v1/rerank")
calls("text-embeddings-inference", "ranking", ranking, "text-embeddings-inference", "/rerank")
report(calls)

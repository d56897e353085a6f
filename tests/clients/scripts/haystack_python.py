from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder, CohereTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker

from tests.clients.inputs import DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, URL, Calls, report

key = Secret.from_token(KEY)


def embedded(embedder: Any) -> Any:
    done = embedder.run(documents=[Document(content=text) for text in TEXTS])
    return [document.embedding for document in done["documents"]]


def ranked(ranker: Any) -> Any:
    documents = [Document(content=text, meta={"index": i}) for i, text in enumerate(DOCUMENTS)]
    kept = ranker.run(query=QUERY, documents=documents)["documents"]
    return [[document.meta["index"], document.score] for document in kept]


openai = Calls("haystack-ai")
common: Any = {"api_key": key, "api_base_url": f"{URL}/v1", "model": EMBEDDER}
documents = OpenAIDocumentEmbedder(**common, progress_bar=False)
openai("OpenAIDocumentEmbedder", "vectors", embedded, documents)
text = OpenAITextEmbedder(**common)
openai("OpenAITextEmbedder", "first", lambda: [text.run(TEXTS[0])["embedding"]])

cohere = Calls("cohere-haystack")
common = {"api_key": key, "api_base_url": URL, "model": EMBEDDER}
cohere_documents = CohereDocumentEmbedder(**common, progress_bar=False)
cohere("CohereDocumentEmbedder", "vectors", embedded, cohere_documents)
cohere_text = CohereTextEmbedder(**common)
cohere("CohereTextEmbedder", "first", lambda: [cohere_text.run(TEXTS[0])["embedding"]])
ranker = CohereRanker(model=RERANKER, api_key=key, api_base_url=URL, top_k=TOP_N)
cohere("CohereRanker", "top", ranked, ranker)

report(openai, cohere)

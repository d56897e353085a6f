import asyncio
from typing import Any

from infinity_client import Client
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_community.embeddings import InfinityEmbeddings
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, OPEN_URL, URL, Calls, report

documents = [Document(text, metadata={"index": i}) for i, text in enumerate(DOCUMENTS)]


def compressed(compressor: Any) -> Any:
    kept = compressor.compress_documents(documents, QUERY)
    return [[document.metadata["index"], document.metadata["relevance_score"]] for document in kept]


def waited(asked: Any, texts: list[str]) -> Any:
    return asyncio.run(asked(texts))


community = Calls("langchain-community")
for path in ("/v1", "", "/infinity"):
    infinity = InfinityEmbeddings(model=EMBEDDER, infinity_api_url=OPEN_URL + path)
    community("InfinityEmbeddings", "vectors", infinity.embed_documents, TEXTS)
    community("InfinityEmbeddings", "vectors", waited, infinity.aembed_documents, TEXTS)
    client = Client(base_url=URL + path, headers={"Authorization": f"Bearer {KEY}"})
    compressor = InfinityRerank(client=client, model=RERANKER, top_n=TOP_N)
    community("InfinityRerank", "top", compressed, compressor)

openai = Calls("langchain-openai")
common = {"model": EMBEDDER, "base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
strings: Any = OpenAIEmbeddings(**common, check_embedding_ctx_length=False)
shortened: Any = OpenAIEmbeddings(**common, check_embedding_ctx_length=False, dimensions=DIMENSIONS)
tokens: Any = OpenAIEmbeddings(**common, tiktoken_model_name="text-embedding-3-small")
openai("OpenAIEmbeddings", "vectors", strings.embed_documents, TEXTS)
openai("OpenAIEmbeddings", "vectors", waited, strings.aembed_documents, TEXTS)
openai("OpenAIEmbeddings", "shortened", shortened.embed_documents, TEXTS)
openai.fails("token ids", tokens.embed_documents, TEXTS)

cohere = Calls("langchain-cohere")
common = {"cohere_api_key": KEY, "base_url": URL}
embedder: Any = CohereEmbeddings(model=EMBEDDER, **common)
reranker: Any = CohereRerank(model=RERANKER, top_n=TOP_N, **common)
cohere("CohereEmbeddings", "vectors", embedder.embed_documents, TEXTS)
cohere("CohereRerank", "top", compressed, reranker)

report(community, openai, cohere)

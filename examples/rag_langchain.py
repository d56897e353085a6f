"""Find the passage that answers a question: LangChain embeds, FAISS keeps the vectors, the gateway reranks.

OPENAI_BASE_URL is the gateway's address with /v1, OPENAI_API_KEY the key that it wants, or anything.
"""

import os
from typing import Any

import faiss
import httpx
import numpy as np
from langchain_openai import OpenAIEmbeddings

BASE_URL, KEY = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
EMBEDDING_MODEL = os.environ.get("EMBEDDING_MODEL", "all-MiniLM-L6-v2")
RERANK_MODEL = os.environ.get("RERANK_MODEL", EMBEDDING_MODEL)

PASSAGES = [
    "The Eiffel Tower was finished in 1889 and is 330 metres tall.",
    "Bread is made of flour, water, salt and yeast.",
    "Paris has been the capital of France since the Middle Ages.",
    "Berlin became the capital of Germany again in 1990.",
    "Cats sleep for twelve to sixteen hours a day.",
]
QUESTION = "Which city is the capital of France?"


def main() -> None:
    # Without check_embedding_ctx_length=False it would send token ids of OpenAI's own tokenizer.
    embeddings = OpenAIEmbeddings(model=EMBEDDING_MODEL, check_embedding_ctx_length=False)
    vectors = np.array(embeddings.embed_documents(PASSAGES), dtype=np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])  # the cosine, since the vectors have length 1
    index.add(vectors)

    question = np.array([embeddings.embed_query(QUESTION)], dtype=np.float32)
    _, nearest = index.search(question, 3)
    found = [PASSAGES[i] for i in nearest[0]]
    print(f"{len(found)} passages found: {found}")

    best = rerank(QUESTION, found, top_n=1)[0]
    print(f"best of them: {best['document']['text']!r} ({best['relevance_score']:.3f})")


def rerank(query: str, documents: list[str], top_n: int) -> list[dict[str, Any]]:
    body = {"model": RERANK_MODEL, "query": query, "documents": documents, "top_n": top_n}
    response = httpx.post(
        f"{BASE_URL}/rerank",
        json={**body, "return_documents": True},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    results: list[dict[str, Any]] = response.raise_for_status().json()["results"]
    return results


if __name__ == "__main__":
    main()

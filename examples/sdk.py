"""Embed and rerank from Python, without a gateway process.

INFINITY_API_BASE says where the servers are (comma-separated), INFINITY_API_KEY is their key, if any.
"""

import asyncio
import os

from gateway import Gateway, aembedding, embedding, rerank

EMBEDDING_MODEL = os.environ.get("EMBEDDING_MODEL", "all-MiniLM-L6-v2")
RERANK_MODEL = os.environ.get("RERANK_MODEL", "rerank")
DOCUMENTS = ["Paris is the capital of France.", "Berlin is in Germany.", "Bread is made of flour."]


def blocking() -> None:
    vectors = [each.embedding for each in embedding(f"infinity/{EMBEDDING_MODEL}", ["cat", "kitten"]).data]
    similarity = sum(a * b for a, b in zip(*vectors, strict=True))
    print(f"2 vectors of {len(vectors[0])} numbers; cat and kitten: {similarity:.2f}")

    response = rerank(f"infinity/{RERANK_MODEL}", "What is the capital of France?", DOCUMENTS, top_n=1)
    best = response.results[0]
    print(f"most relevant: {best['document']['text']!r} ({best.relevance_score:.3f})")


async def awaited() -> None:
    # Calls made at the same moment share batches, wherever they come from.
    calls = (aembedding(f"infinity/{EMBEDDING_MODEL}", f"text {i}") for i in range(100))
    print(f"{len(await asyncio.gather(*calls))} texts awaited")


async def held() -> None:
    # For servers: an engine in their own event loop, as long as they run.
    async with Gateway() as gateway:
        response = await gateway.embedding(EMBEDDING_MODEL, "held", dimensions=4)
        print(f"first numbers: {response.data[0].embedding}")


if __name__ == "__main__":
    blocking()
    asyncio.run(awaited())
    asyncio.run(held())

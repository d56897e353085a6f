"""Embed through the gateway with OpenAI's client, which asks for base64 and decodes it.

OPENAI_BASE_URL is the gateway's address with /v1, OPENAI_API_KEY the key that it wants, or anything.
"""

import os

from openai import OpenAI

MODEL = os.environ.get("EMBEDDING_MODEL", "all-MiniLM-L6-v2")


def main() -> None:
    client = OpenAI()
    response = client.embeddings.create(model=MODEL, input=["cat", "kitten", "stock"])
    cat, kitten, stock = (each.embedding for each in response.data)
    print(f"3 vectors of {len(cat)} numbers from {response.model}, {response.usage.total_tokens} tokens")
    print(f"cat and kitten: {similarity(cat, kitten):.2f}, cat and stock: {similarity(cat, stock):.2f}")


def similarity(one: list[float], other: list[float]) -> float:
    """The cosine: Infinity's vectors have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()

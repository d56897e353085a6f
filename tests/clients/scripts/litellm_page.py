"""The Python examples of LiteLLM's page on Infinity, with `gateway` where that says `litellm`."""

import json
import os
import sys

from gateway import embedding, rerank

os.environ["INFINITY_API_BASE"] = sys.argv[1]

response = rerank(
    model="infinity/rerank",
    query="What is the capital of France?",
    documents=["Paris", "London", "Berlin", "Madrid"],
)
with_documents = rerank(
    model="infinity/rerank",
    query="What is the capital of France?",
    documents=["Paris", "London", "Berlin", "Madrid"],
    return_documents=True,
)
raw = rerank(
    model="infinity/rerank",
    query="What is the capital of France?",
    documents=["Paris", "London", "Berlin", "Madrid"],
    raw_scores=True,
)
embedded = embedding(
    model="infinity/bge-small",
    input=["good morning from litellm"],
)

rankings = {"plain": response, "documents": with_documents, "raw": raw}
print(
    json.dumps(
        {
            "rankings": {
                name: [
                    [row["index"], row["relevance_score"], row["document"]["text"]] for row in ranking.results
                ]
                for name, ranking in rankings.items()
            },
            "vector": embedded.data[0]["embedding"],
        }
    )
)

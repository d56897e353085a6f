"""What Infinity itself answers to what the clients ask; and the errors that they must raise."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tests.api.caller import Caller
from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, MANY, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.running import Call

CLOSE = 1e-5
"""The company in a batch changes the last digits, and nothing else may."""

ERRORS = {
    ("openai", "a wrong key"): ("AuthenticationError", 401, "key"),
    ("openai", "an unknown model"): ("NotFoundError", 404, "nobody"),
    ("openai", "no input"): ("BadRequestError", 400, "input"),
    ("openai", "token ids"): ("BadRequestError", 400, "check_embedding_ctx_length=False"),
    ("openai (JavaScript)", "a wrong key"): ("AuthenticationError", 401, "key"),
    ("openai (JavaScript)", "an unknown model"): ("NotFoundError", 404, "nobody"),
    ("openai (JavaScript)", "no input"): ("BadRequestError", 400, "input"),
    ("openai (JavaScript)", "token ids"): ("BadRequestError", 400, "check_embedding_ctx_length=False"),
    ("cohere", "a wrong key"): ("UnauthorizedError", 401, "key"),
    ("cohere", "an unknown model"): ("NotFoundError", 404, "nobody"),
    ("cohere", "no documents"): ("BadRequestError", 400, "documents"),
    ("cohere", "int8"): ("BadRequestError", 400, "embedding_types"),
    ("litellm", "a wrong key"): ("AuthenticationError", 401, "key"),
    ("litellm", "an unknown model"): ("NotFoundError", 404, "nobody"),
    ("langchain-openai", "token ids"): ("BadRequestError", 400, "check_embedding_ctx_length=False"),
    ("voyageai", "int8"): ("APIError", None, "output_dtype must be float"),
}
"""Class, status and a part of the message, by client and call."""


@dataclass(frozen=True)
class Expected:
    """Infinity's answers by kind: vectors as a matrix, rankings as rows of index, score and document."""

    vectors: dict[str, Any]
    rankings: dict[str, list[tuple[int, float]]]
    usage: dict[str, int]
    models: list[str]

    @classmethod
    async def asked(cls, direct: Caller, models: set[str]) -> Self:
        async def embed(texts: list[str], **fields: Any) -> Any:
            reply = await direct.post("/embeddings", {"model": EMBEDDER, "input": texts, **fields})
            return np.array(reply.vectors)

        async def rank(**fields: Any) -> list[tuple[int, float]]:
            body = {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS, **fields}
            return (await direct.post("/rerank", body)).ranking

        full, ranking = await embed(TEXTS), await rank()
        usage = (await direct.post("/embeddings", {"model": EMBEDDER, "input": TEXTS})).body["usage"]
        return cls(
            vectors={
                "vectors": full,
                "first": full[:1],
                "shortened": await embed(TEXTS, dimensions=DIMENSIONS),
                "many": await embed(MANY),
            },
            rankings={
                "ranking": ranking,
                "echoed": ranking,
                "top": ranking[:TOP_N],
                "top echoed": ranking[:TOP_N],
                "raw": await rank(raw_scores=True),
            },
            usage=usage,
            models=sorted(models),
        )

    def check(self, call: Call) -> None:
        """Fails unless the call gave what Infinity gives."""
        kind, got = call["kind"], call["got"]
        if kind in self.vectors:
            assert np.shape(got) == self.vectors[kind].shape, call
            assert np.abs(np.array(got) - self.vectors[kind]).max() < CLOSE, call
        elif kind in self.rankings:
            assert [row[0] for row in got] == [index for index, _ in self.rankings[kind]], call
            far = [abs(row[1] - score) for row, (_, score) in zip(got, self.rankings[kind], strict=True)]
            assert max(far) < CLOSE, call
            assert [row[2:] for row in got] == [[DOCUMENTS[row[0]]] * ("echoed" in kind) for row in got], call
        elif kind == "usage":
            assert {name: got[name] for name in self.usage} == self.usage, call
        elif kind == "models":
            assert sorted(got) == self.models, call
        elif kind == "headers":
            assert got == {"content-type": "application/json", "content-encoding": None}, call
        else:
            assert kind == "error", call
            name, status, part = ERRORS[call["client"], call["call"]]
            assert (got["class"], got["status"]) == (name, status), call
            assert part in got["message"], call

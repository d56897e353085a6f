"""The functions and the example, against a real Infinity."""

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import embedding, rerank
from tests.end_to_end.commands import ended
from tests.real_infinity import RealInfinity

EXAMPLES = Path(__file__).parents[2] / "examples"
CLOSE = 1e-4


def infinitys(server: RealInfinity, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_answers_are_infinitys(real_infinity: RealInfinity) -> None:
    """Vectors, scores, order and usage."""
    texts, documents = ["a cat", "a dog", "stocks and bonds"], ["about cats", "the weather", "kittens"]

    ours = embedding("infinity/bert", texts, api_base=real_infinity.url)
    ranked = rerank("infinity/cross", "cat", documents, raw_scores=True, api_base=real_infinity.url)

    theirs = infinitys(real_infinity, "/embeddings", {"model": "bert", "input": texts})
    body = {"model": "cross", "query": "cat", "documents": documents, "raw_scores": True}
    scores = infinitys(real_infinity, "/rerank", body)
    assert np.allclose(
        [each.embedding for each in ours.data], [each["embedding"] for each in theirs["data"]], atol=CLOSE
    )
    assert ours.usage.total_tokens == theirs["usage"]["total_tokens"]
    assert [result.index for result in ranked.results] == [result["index"] for result in scores["results"]]
    assert [result.relevance_score for result in ranked.results] == pytest.approx(
        [result["relevance_score"] for result in scores["results"]], abs=CLOSE
    )


async def test_the_example_runs(real_infinity: RealInfinity) -> None:
    """As it stands, with nothing but the environment."""
    environ = {
        **os.environ,
        "INFINITY_API_BASE": real_infinity.url,
        "EMBEDDING_MODEL": "bert",
        "RERANK_MODEL": "cross",
    }

    done = await ended(sys.executable, "-W", "error", str(EXAMPLES / "sdk.py"), environ=environ)

    assert (done.code, done.err) == (0, "")
    for shown in ("2 vectors of ", "most relevant: ", "100 texts awaited"):
        assert shown in done.out

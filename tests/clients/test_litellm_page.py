"""The examples of LiteLLM's page on Infinity, as printed there; only the address is the gateway's.

The models are called what the page calls them. Two bodies there are not JSON: they hold Python's True.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.caller import Caller, numbers
from tests.clients.expected import CLOSE
from tests.clients.running import run
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity

pytestmark = pytest.mark.asyncio(loop_scope="package")

Gateways = tuple[GatewayProcess, GatewayProcess]

PRINTED = "http://0.0.0.0:4000"
HEADERS = """-H "Authorization: Bearer sk-1234" \\
  -H "Content-Type: application/json" """

STATES = """
    "model": "custom-infinity-rerank",
    "query": "What is the capital of the United States?",
    "documents": [
        "Carson City is the capital city of the American state of Nevada.",
        "The Commonwealth of the Northern Mariana Islands is a group of islands in the Pacific Ocean. \
Its capital is Saipan.",
        "Washington, D.C. is the capital of the United States.",
        "Capital punishment has existed in the United States since before it was a country."
    ]"""
FRANCE = """
    "model": "custom-infinity-rerank",
    "query": "What is the capital of France?",
    "documents": [
        "Paris",
        "London",
        "Berlin",
        "Madrid"
    ]"""
TOP = f'{{{STATES},\n    "top_n": 3\n  }}'
WITH_DOCUMENTS = f'{{{FRANCE},\n    "return_documents": True,\n  }}'
RAW = f'{{{STATES},\n    "raw_scores": True # <- PROVIDER-SPECIFIC PARAM\n  }}'
HELLO = '{\n    "model": "custom-infinity-embedding",\n    "input": ["hello"]\n  }'
FOOD = """{
    "model": "bge-small",
    "input": ["The food was delicious and the waiter..."],
    "encoding_format": "float"
  }"""


async def curl(gateways: Gateways, route: str, body: str) -> tuple[int, Any]:
    """The status and the JSON that the page's command gets."""
    command = (
        f"curl --silent --write-out '\\n%{{http_code}}' {PRINTED}{route} \\\n  {HEADERS} \\\n  -d '{body}'"
    )
    out = await run(["sh", "-c", command.replace(PRINTED, gateways[0].url)], {})
    answer, status = out.rsplit("\n", 1)
    return int(status), json.loads(answer)


async def asked_directly(infinity: RealInfinity, path: str, body: str, model: str) -> dict[str, Any]:
    async with Caller(infinity.url) as direct:
        answer: dict[str, Any] = (await direct.post(path, {**json.loads(body), "model": model})).body
        return answer


def rows(answer: dict[str, Any]) -> tuple[list[int], Any]:
    return [row["index"] for row in answer["results"]], [row["relevance_score"] for row in answer["results"]]


@pytest.mark.parametrize(
    ("body", "mended", "line", "column"),
    [
        (WITH_DOCUMENTS, WITH_DOCUMENTS.replace("True,", "true"), 10, 25),
        (RAW, RAW.replace("True # <- PROVIDER-SPECIFIC PARAM", "true"), 10, 19),
    ],
    ids=["return_documents", "raw_scores"],
)
async def test_a_body_with_pythons_true_is_told_how_to_mend_it(
    gateways: Gateways, infinity: RealInfinity, body: str, mended: str, line: int, column: int
) -> None:
    status, answer = await curl(gateways, "/rerank", body)
    assert status == 400
    message = answer["error"]["message"]
    assert f"line {line}" in message
    assert f"column {column}" in message
    assert "true" in message

    status, answer = await curl(gateways, "/rerank", mended)
    direct = await asked_directly(infinity, "/rerank", mended, "rerank")
    assert status == 200
    assert rows(answer)[0] == rows(direct)[0]
    assert rows(answer)[1] == pytest.approx(rows(direct)[1], abs=CLOSE)
    documents = json.loads(mended)["documents"]
    wanted = "return_documents" in mended
    assert [row.get("document") for row in answer["results"]] == [
        {"text": documents[index]} if wanted else None for index in rows(answer)[0]
    ]


async def test_rerank_as_printed(gateways: Gateways, infinity: RealInfinity) -> None:
    status, answer = await curl(gateways, "/rerank", TOP)
    direct = await asked_directly(infinity, "/rerank", TOP, "rerank")
    assert status == 200
    assert len(answer["results"]) == 3
    assert rows(answer)[0] == rows(direct)[0]
    assert rows(answer)[1] == pytest.approx(rows(direct)[1], abs=CLOSE)


@pytest.mark.parametrize("body", [HELLO, FOOD], ids=["hello", "food"])
async def test_embeddings_as_printed(gateways: Gateways, infinity: RealInfinity, body: str) -> None:
    status, answer = await curl(gateways, "/embeddings", body)
    direct = await asked_directly(infinity, "/embeddings", body, "bge-small")
    assert status == 200
    assert answer["model"] == json.loads(body)["model"]
    assert isinstance(answer["data"][0]["embedding"], list)
    assert answer["data"][0]["embedding"] == pytest.approx(direct["data"][0]["embedding"], abs=CLOSE)


async def test_the_python_examples_run_with_gateway_in_litellms_place(infinity: RealInfinity) -> None:
    script = Path(__file__).parent / "scripts" / "litellm_page.py"
    got = json.loads(await run([sys.executable, script, infinity.url], {}))
    france = f"{{{FRANCE}}}"
    for name, fields in (("plain", {}), ("documents", {}), ("raw", {"raw_scores": True})):
        body = json.dumps({**json.loads(france), **fields})
        index, scores = rows(await asked_directly(infinity, "/rerank", body, "rerank"))
        assert [row[0] for row in got["rankings"][name]] == index
        assert [row[1] for row in got["rankings"][name]] == pytest.approx(scores, abs=CLOSE)
        assert [row[2] for row in got["rankings"][name]] == [json.loads(body)["documents"][i] for i in index]
    text = '{"input": ["good morning from litellm"]}'
    direct = await asked_directly(infinity, "/embeddings", text, "bge-small")
    assert np.allclose(numbers(got["vector"]), numbers(direct["data"][0]["embedding"]), atol=CLOSE)

"""What is asked below /infinity is answered as Infinity itself answers it.

The same requests go to a real Infinity and to a gateway in front of it. docs/parity.md lists where the two
differ, and why; each of its lines must still be true.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from gateway.config import Config
from gateway.core.settings import DeploymentSettings, EngineSettings, PoolSettings
from tests.api.caller import numbers
from tests.gateway_in_process import GatewayInProcess
from tests.parity.requests import Request, requests
from tests.real_infinity import RealInfinity, tiny_models

SEED = 20_26
TOLERANCE = 5e-3  # by who shares the batch; what Infinity's own tests allow
AT_ONCE = 8
DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"

pytestmark = pytest.mark.asyncio(loop_scope="module")

Answer = tuple[int, Any]
"""Status and body; a body that is no JSON as text."""


def message(answer: Answer) -> str:
    """Of an error in Infinity's own shape; empty for any other answer."""
    status, body = answer
    if not isinstance(body, dict) or "error" not in body:
        return ""
    assert body["error"] == {"message": body["error"]["message"], "type": None, "param": None, "code": status}
    return str(body["error"]["message"])


def _kind(answer: Answer) -> str:
    found = re.search(r"\w+(Error|Corruption)\b", message(answer))
    return found[0] if found else ""


Differs = Callable[[Request, Answer, Answer], bool]
"""Whether it explains why the gateway's answer, the last, is not Infinity's."""

DIFFERENCES: dict[str, Differs] = {
    "No model is named": lambda _, theirs, ours: (
        "`default/not-specified` not found" in message(theirs) and ours[0] == 200
    ),
    "Bits as base64": lambda _, theirs, ours: (
        "does not support base64" in message(theirs) and (theirs[0], ours[0]) == (500, 200)
    ),
    "Several vectors are not cut": lambda request, theirs, ours: (
        b'"colbert"' in request.body and "several vectors" in message(ours) and theirs[0] in (200, 400)
    ),
    "Tokens of one caller in a batch": lambda request, theirs, ours: (
        b'"bert-tokens"' in request.body
        and (theirs[0], ours[0]) == (200, 200)
        and same(theirs[1] | {"usage": 0}, ours[1] | {"usage": 0})
        and ours[1]["usage"]["total_tokens"] > 0
    ),
    "The words of a refusal": lambda _, theirs, ours: (
        (theirs[0], ours[0]) == (400, 400) and _kind(theirs) == _kind(ours) != ""
    ),
    "Addresses are not fetched": lambda request, theirs, ours: (
        b'"http' in request.body and theirs[0] == 400 and "not fetched" in message(ours)
    ),
    "Refusals that cannot be written": lambda _, theirs, ours: (
        theirs == (500, "Internal Server Error") and ours[0] == 422
    ),
    "A slash too many": lambda request, theirs, ours: (
        request.path.endswith("/") and theirs[0] == 307 and ours == (404, {"detail": "Not Found"})
    ),
    "The type of a body": lambda request, theirs, ours: (
        "json" not in request.content_type and (theirs[0], ours[0]) == (422, 200)
    ),
}
"""By the headings of docs/parity.md."""

BY_CHANCE = "Tokens of one caller in a batch"
"""Seen only where calls happen to share a batch."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(real_infinity: RealInfinity) -> AsyncIterator[GatewayInProcess]:
    """A pool for each model, in the server's order."""
    pools = tuple(
        PoolSettings(model.name, (DeploymentSettings(model.name, real_infinity.url, model.name),))
        for model in tiny_models()
    )
    async with GatewayInProcess(Config(EngineSettings(pools))) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pairs(
    real_infinity: RealInfinity, gateway: GatewayInProcess
) -> list[tuple[Request, Answer, Answer]]:
    """Each request with Infinity's answer and the gateway's."""
    gate = asyncio.Semaphore(AT_ONCE)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=connector) as session:

        async def ask(base: str, request: Request) -> Answer:
            headers = {"Content-Type": request.content_type}
            async with (
                gate,
                session.request(
                    request.method,
                    base + request.path,
                    data=request.body,
                    headers=headers,
                    allow_redirects=False,
                ) as answer,
            ):
                said = await answer.read()
                is_json = answer.content_type == "application/json"
                return answer.status, orjson.loads(said) if is_json else said.decode()

        async def both(request: Request) -> tuple[Request, Answer, Answer]:
            # One after the other, so that neither answer depends on what the other caller sends.
            return (
                request,
                await ask(real_infinity.url, request),
                await ask(f"{gateway.url}/infinity", request),
            )

        return await asyncio.gather(*map(both, requests(SEED)))


def same(one: Any, other: Any) -> bool:
    """Equal; numbers with a tolerance."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, abs_tol=TOLERANCE, rel_tol=TOLERANCE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def comparable(answer: Answer) -> Answer:
    """Without what is different each time."""
    status, body = answer
    if isinstance(body, dict) and "error" in body:
        return status, {"error": body["error"] | {"message": _plain(body["error"]["message"])}}
    if status != 200 or not isinstance(body, dict):
        return answer
    body = dict(body)
    if "unix" in body:
        return status, {"unix": isinstance(body["unix"], float)}
    if "id" in body:
        body |= {"id": body["id"].startswith("infinity-"), "created": isinstance(body["created"], int)}
    if body["object"] == "rerank":
        # Scores that are almost equal may change places.
        by_index = sorted(body["results"], key=lambda result: result["index"])
        scores = [result["relevance_score"] for result in body["results"]]
        body |= {"results": by_index, "sorted": scores == sorted(scores, reverse=True)}
    elif body["object"] == "list" and "usage" in body:
        body["data"] = [row | {"embedding": _floats(row["embedding"])} for row in body["data"]]
    elif body["object"] == "list":
        body["data"] = [
            model
            | {"created": 0, "stats": sorted(model["stats"]), "capabilities": sorted(model["capabilities"])}
            for model in body["data"]
        ]
    return status, body


def _floats(embedding: Any) -> Any:
    return [type(embedding).__name__, numbers(embedding) if isinstance(embedding, str) else embedding]


def _plain(said: str) -> str:
    """Without addresses in memory, and with sets in order."""
    said = re.sub(r"0x[0-9a-f]+", "0x", said)
    return re.sub(r"\{[^}]*\}", lambda found: " ".join(sorted(re.findall(r"\w+", found[0]))), said)


async def test_the_gateway_answers_as_infinity_does(pairs: list[tuple[Request, Answer, Answer]]) -> None:
    """Status and body, except for what is listed; and whatever is listed is still seen."""
    seen: set[str] = set()
    unexplained: list[str] = []
    for request, *answers in pairs:
        theirs, ours = map(comparable, answers)
        if theirs[0] == ours[0] and same(theirs[1], ours[1]):
            continue
        if why := next((why for why, differs in DIFFERENCES.items() if differs(request, theirs, ours)), ""):
            seen.add(why)
        else:
            unexplained.append(f"{request}\n  Infinity: {theirs!s:.400}\n  gateway:  {ours!s:.400}")

    assert len(pairs) > 400
    assert not unexplained, f"{len(unexplained)} differ:\n" + "\n".join(unexplained)
    assert seen | {BY_CHANCE} == DIFFERENCES.keys()


async def test_every_kind_of_answer_was_compared(pairs: list[tuple[Request, Answer, Answer]]) -> None:
    """Or the requests would say little."""
    good = sum(theirs[0] == 200 for _, theirs, _ in pairs)
    kinds = {problem["type"] for _, (status, body), _ in pairs if status == 422 for problem in body["detail"]}

    assert len(pairs) / 4 < good < len(pairs) * 3 / 4
    assert len(kinds) >= 18, sorted(kinds)


async def test_what_differs_is_written_down() -> None:
    """Each with its reason, below a heading of its own; at most ten, or it would be another API."""
    headings = re.findall(r"^## (.+)$", DOCUMENT.read_text(), re.MULTILINE)

    assert headings == list(DIFFERENCES)
    assert len(headings) <= 10

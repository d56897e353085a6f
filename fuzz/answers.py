"""What every answer must be, whatever was asked: of a documented status, and in the shape of its route."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gateway.messages import Call, ClassifyCall, EmbeddingCall, Modality, RerankCall
from tests.fakes.vectors import classes_of, score_of, vector_of

_NUMBERS = {int, float, type(None)}

NATIVE = "/infinity/"
STATUSES = frozenset({200, 400, 404, 413})
NATIVE_STATUSES = frozenset({200, 400, 413, 422})


def check_answer(path: str, status: int, raw: bytes) -> Any:
    """Gives its body."""
    native = path.startswith(NATIVE)
    assert status in (NATIVE_STATUSES if native else STATUSES), (status, raw[:500])
    body = json.loads(raw, parse_constant=_no_constant)
    if status != 200:
        (_check_native_error if native else _check_error)(status, body)
    return body


def check_result(call: Call, body: Any) -> None:
    """That each item has the answer that the stand-in gives it, in whatever dialect."""
    match call:
        case EmbeddingCall(modality=Modality.TEXT):
            wanted = [vector_of(text)[: call.dimensions].tolist() for text in call.inputs]
            assert vectors_in(body) == wanted
        case EmbeddingCall():
            assert len(vectors_in(body)) == len(call.inputs)
        case RerankCall():
            scores = [score_of(call.query, document) for document in call.documents]
            best = sorted(range(len(scores)), key=lambda index: -scores[index])[: call.top_n]
            for ranking in rankings_in(body):
                assert ranking == [(index, scores[index]) for index in best]
        case ClassifyCall():
            assert body["data"] == [classes_of(text) for text in call.inputs]


def vectors_in(body: Any) -> list[list[float]]:
    """OpenAI's and Infinity's rows, Cohere's lists, by type or not, and TEI's bare one."""
    if isinstance(body, dict) and "data" in body:
        assert [row["index"] for row in body["data"]] == list(range(len(body["data"])))
        return [_numbers(row["embedding"]) for row in body["data"]]
    rows = body["embeddings"] if isinstance(body, dict) else body
    return [_numbers(row) for row in (rows["float"] if isinstance(rows, dict) else rows)]


def rankings_in(body: Any) -> list[list[tuple[int, float]]]:
    """Cohere's and Infinity's `results`, Voyage's `data` beside them, TEI's bare list."""
    if isinstance(body, list):
        return [[(rank["index"], rank["score"]) for rank in body]]
    lists: Sequence[Any] = [body[name] for name in ("results", "data") if name in body]
    assert lists
    return [[(rank["index"], rank["relevance_score"]) for rank in ranks] for ranks in lists]


def _numbers(embedding: Any) -> list[float]:
    if isinstance(embedding, str):
        vector = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    else:
        assert all(type(number) in (int, float, type(None)) for number in np.ravel(embedding).tolist()), (
            embedding
        )
        vector = np.asarray(embedding, np.float32)
    numbers: list[float] = vector.tolist()
    return numbers


def _check_error(_status: int, body: Any) -> None:
    assert body.keys() == {"error"}
    error: Mapping[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    assert error["param"] is None or isinstance(error["param"], str)
    assert len(error["message"]) < 2000


def _check_native_error(status: int, body: Any) -> None:
    if status == 422:
        assert body.keys() == {"detail"}
        assert all({"type", "loc", "msg", "input"} <= problem.keys() for problem in body["detail"])
        assert body["detail"]
    elif "detail" in body:
        assert isinstance(body["detail"], str)
    else:
        error = body["error"]
        assert isinstance(error["message"], str)
        assert error["code"] == status


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")

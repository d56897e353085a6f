"""Infinity's JSON: requests written, answers taken apart without looking inside a vector."""

import string
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import orjson

from gateway.core.lanes import Value
from gateway.core.retry import Failure
from gateway.messages import Modality, Task
from gateway.pool import Answer, Request, SendError
from gateway.vectors import floats

_T = TypeVar("_T")
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()


class _Usage(msgspec.Struct):
    total_tokens: Annotated[int, msgspec.Meta(ge=0)]


class _Vector(msgspec.Struct):
    index: int
    embedding: msgspec.Raw


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage


class _Score(msgspec.Struct):
    index: int
    relevance_score: float | None


class _Ranking(msgspec.Struct):
    results: list[_Score]
    usage: _Usage


class _Classes(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: _Usage


class _Stats(msgspec.Struct):
    batch_size: int = 32


class Model(msgspec.Struct):
    """One entry of a server's `/models`."""

    id: str
    capabilities: list[str] = []
    stats: _Stats = msgspec.field(default_factory=_Stats)


class _Models(msgspec.Struct):
    data: list[Model]


_embeddings = msgspec.json.Decoder(_Embeddings)
_ranking = msgspec.json.Decoder(_Ranking)
_classes = msgspec.json.Decoder(_Classes)
_models = msgspec.json.Decoder(_Models)

# What a configured parameter must not change: it would be done twice, or to the wrong items.
_OURS = ("dimensions", "modality", "top_n")

PATHS = {Task.EMBED: "/embeddings", Task.RERANK: "/rerank", Task.CLASSIFY: "/classify"}


def encode(request: Request, model: str | None) -> bytes:
    """The body of a request; the gateway's own fields win over parameters of the same name."""
    key = request.key
    body: dict[str, Any] = orjson.loads(key.params) if key.params else {}
    for name in _OURS:
        body.pop(name, None)
    if model is not None:
        body["model"] = model
    match key.task:
        case Task.EMBED:
            body["input"] = request.items
            body["encoding_format"] = request.encoding.value
            if key.modality is not Modality.TEXT:
                body["modality"] = key.modality.value
        case Task.RERANK:
            # Sorting, top_n and documents are added here, so equal queries can share one request.
            body.update(query=key.query, documents=request.items, return_documents=False)
        case Task.CLASSIFY:
            body["input"] = request.items
    return orjson.dumps(body)


def decode(request: Request, body: bytes) -> Answer:
    """The answer to a request. Raises SendError when it cannot be one: wrong shape, count or indices."""
    try:
        match request.key.task:
            case Task.EMBED:
                return _embedded(request, _embeddings.decode(body))
            case Task.RERANK:
                return _reranked(request, _ranking.decode(body))
            case Task.CLASSIFY:
                return _classified(request, _classes.decode(body))
    except msgspec.MsgspecError as error:
        raise _bad("unreadable", f"unreadable: {error}") from error


def decode_models(body: bytes) -> list[Model]:
    try:
        return _models.decode(body).data
    except msgspec.MsgspecError as error:
        raise _bad("unreadable", f"unreadable list of models: {error}") from error


def _embedded(request: Request, answer: _Embeddings) -> Answer:
    placed = _placed(len(request.items), [(item.index, bytes(item.embedding)) for item in answer.data])
    if placed[0][:1] == b'"':
        # One model gives vectors of one size.
        size = len(placed[0])
        if any(len(vector) != size or not _is_base64(vector) for vector in placed):
            raise _bad("size", "vectors of different sizes, or not base64 of float32")
    elif not all(_is_list(vector) for vector in placed):
        raise _bad("unreadable", "a vector that is neither base64 nor a list of numbers")
    return Answer(list(placed), answer.usage.total_tokens)


def _is_base64(vector: bytes) -> bool:
    """Whether a fragment is a quoted base64 string of whole float32 numbers, told without decoding it."""
    coded = len(vector) - 2
    padding = vector.count(b"=", -3)
    return (
        coded > 0
        and coded % 4 == 0
        and (coded // 4 * 3 - padding) % 4 == 0
        and not vector[1 : coded + 1 - padding].translate(None, _BASE64)
    )


def _is_list(vector: bytes) -> bool:
    """Whether a fragment is a list of numbers, or of equally long lists of numbers."""
    try:
        return vector[:1] == b"[" and floats(vector).ndim in (1, 2)
    except (TypeError, ValueError):
        return False


def _reranked(request: Request, answer: _Ranking) -> Answer:
    # A NaN score is written as null.
    scores = [
        (item.index, float("nan") if item.relevance_score is None else item.relevance_score)
        for item in answer.results
    ]
    return Answer(list(_placed(len(request.items), scores)), answer.usage.total_tokens)


def _classified(request: Request, answer: _Classes) -> Answer:
    if len(answer.data) != len(request.items):
        raise _bad("count", f"{len(answer.data)} results for {len(request.items)} items")
    labels: list[Value] = [bytes(item) for item in answer.data]
    return Answer(labels, answer.usage.total_tokens)


def _placed(expected: int, found: Sequence[tuple[int, _T]]) -> list[_T]:
    """The values in the order of their indices, which must be 0 to `expected` - 1, each once."""
    if len(found) != expected:
        raise _bad("count", f"{len(found)} results for {expected} items")
    by_index = dict(found)
    try:
        return [by_index[index] for index in range(expected)]
    except KeyError as error:
        raise _bad("index", f"no result for item {error}") from None


def _bad(reason: str, message: str) -> SendError:
    return SendError(Failure.BAD_ANSWER, message, reason=reason)

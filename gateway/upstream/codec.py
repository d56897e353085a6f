"""Infinity's JSON: requests written, answers taken apart without looking inside a vector."""

import string
from collections.abc import Sequence
from operator import attrgetter, methodcaller
from typing import Annotated, Any

import msgspec
import orjson

from gateway.core.lanes import Value
from gateway.core.retry import Failure
from gateway.messages import Modality, Task
from gateway.pool import Answer, Encoding, Request, SendError

_NAN = float("nan")
_FLOAT32_MAX = 3.4028234663852886e38
_KIB, _MIB = 1024, 1024 * 1024
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()


class _Usage(msgspec.Struct, gc=False):
    total_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Row(msgspec.Struct, gc=False):
    index: int


class _Vector(_Row, gc=False):
    embedding: msgspec.Raw


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage


class _Score(_Row, gc=False):
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
    backend: str = ""


class _Models(msgspec.Struct):
    data: list[Model]


_embeddings = msgspec.json.Decoder(_Embeddings)
_ranking = msgspec.json.Decoder(_Ranking)
_classes = msgspec.json.Decoder(_Classes)
_models = msgspec.json.Decoder(_Models)
_Number = Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)] | None  # null: a NaN
_vector = msgspec.json.Decoder(list[_Number])
_several_vectors = msgspec.json.Decoder(list[list[_Number]])
_index = attrgetter("index")

# What a configured parameter must not change: it would be done twice, or to the wrong items.
_OURS = ("dimensions", "modality", "top_n")

PATHS = {Task.EMBED: "/embeddings", Task.RERANK: "/rerank", Task.CLASSIFY: "/classify"}


def encode(request: Request, model: str | None) -> bytes:
    """The body of a request; the gateway's own fields win over parameters of the same name."""
    key = request.key
    body: dict[str, Any] = {}
    if key.params:
        body = orjson.loads(key.params)
        for name in _OURS:
            body.pop(name, None)
    if model is not None:
        body["model"] = model
    match key.task:
        case Task.EMBED:
            body["input"] = request.items
            body["encoding_format"] = "base64" if request.encoding is Encoding.BASE64 else "float"
            if key.modality is not Modality.TEXT:
                body["modality"] = key.modality.value
        case Task.RERANK:
            # Sorting, top_n and documents are added here, so equal queries can share one request.
            body.update(query=key.query, documents=request.items, return_documents=False)
        case Task.CLASSIFY:
            body["input"] = request.items
    return orjson.dumps(body)


def answer_bytes_max(request: Request, asked_bytes: int) -> int:
    """More than any answer to a request of so many bytes can have."""
    match request.key.task:
        case Task.EMBED if request.encoding is Encoding.BASE64:
            each = 128 * _KIB  # 24,000 numbers
        case Task.EMBED:
            each = 32 * _MIB  # 8,192 tokens of 128 numbers each, in as many digits as there can be
        case Task.RERANK:
            each = _KIB
        case Task.CLASSIFY:
            each = 256 * _KIB  # 3,000 classes
    # A refusal repeats what it refuses.
    return _MIB + 8 * asked_bytes + min(each * len(request.items), 256 * _MIB)


def decode(request: Request, body: bytes) -> Answer:
    """The answer to a request. Raises SendError when it cannot be one: wrong shape, count or indices."""
    try:
        match request.key.task:
            case Task.EMBED:
                return _embedded(request, _embeddings.decode(body))
            case Task.RERANK:
                return _reranked(request, _ranking.decode(body))
            case Task.CLASSIFY:
                body.decode()  # what is handed on unread must be text all the same
                return _classified(request, _classes.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad("unreadable", f"unreadable: {error}") from error


def decode_models(body: bytes) -> list[Model]:
    try:
        return _models.decode(body).data
    except msgspec.MsgspecError as error:
        raise _bad("unreadable", f"unreadable list of models: {error}") from error


def _embedded(request: Request, answer: _Embeddings) -> Answer:
    _place(len(request.items), answer.data)
    vectors = [bytes(row.embedding) for row in answer.data]
    if vectors[0][:1] == b'"':
        if not _are_base64(vectors):
            raise _bad("size", "vectors of different sizes, or not base64 of float32")
    elif not _are_lists(vectors):
        raise _bad("unreadable", "vectors of different sizes, or neither base64 nor lists of numbers")
    values: list[Value] = [*vectors]
    return Answer(values, answer.usage.total_tokens)


def _are_base64(vectors: Sequence[bytes]) -> bool:
    """Whether fragments are quoted base64 of equally many whole float32 numbers, told without decoding them.

    One model gives vectors of one size, and so equally long ends.
    """
    size = len(vectors[0])
    padding = vectors[0].count(b"=", -3)
    end = b"=" * padding + b'"'
    coded = size - 2
    if coded <= 0 or coded % 4 or (coded // 4 * 3 - padding) % 4:
        return False
    if len(vectors) > 1 and (
        any(map(size.__ne__, map(len, vectors))) or not all(map(methodcaller("endswith", end), vectors))
    ):
        return False
    # All at once, which is the quickest: what is left must be their first quotes and their ends, no more.
    return b"".join(vectors).translate(None, _BASE64) == (b'"' + end) * len(vectors)


def _are_lists(vectors: Sequence[bytes]) -> bool:
    """Whether fragments are equally long lists of numbers, or lists of such lists."""
    several = vectors[0][1:].lstrip()[:1] == b"["
    try:
        found: Sequence[Any] = [(_several_vectors if several else _vector).decode(each) for each in vectors]
    except msgspec.MsgspecError:
        return False
    sizes = {len(row) for rows in found for row in rows} if several else set(map(len, found))
    return all(found) and len(sizes) == 1 and 0 not in sizes


def _reranked(request: Request, answer: _Ranking) -> Answer:
    _place(len(request.items), answer.results)
    # A NaN score is written as null.
    scores: list[Value] = [
        _NAN if row.relevance_score is None else row.relevance_score for row in answer.results
    ]
    return Answer(scores, answer.usage.total_tokens)


def _classified(request: Request, answer: _Classes) -> Answer:
    if len(answer.data) != len(request.items):
        raise _bad("count", f"{len(answer.data)} results for {len(request.items)} items")
    labels: list[Value] = [bytes(item) for item in answer.data]
    return Answer(labels, answer.usage.total_tokens)


def _place(expected: int, rows: list[_Vector] | list[_Score]) -> None:
    """Put rows in the order of their indices, which must be 0 to `expected` - 1, each once."""
    if len(rows) != expected:
        raise _bad("count", f"{len(rows)} results for {expected} items")
    rows.sort(key=_index)
    for index, row in enumerate(rows):
        if row.index != index:
            raise _bad("index", f"no result for item {index}, or more than one for another")


def _bad(reason: str, message: str) -> SendError:
    return SendError(Failure.BAD_ANSWER, message, reason=reason)

"""Text Embeddings Inference: `POST /embed`, and `/rerank` with `texts`. Answers are bare lists."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.parsing import (
    dimensions_of,
    flag_of,
    model_of,
    params_of,
    refuse_tokens,
    role_of,
    text_of,
    texts_of,
)
from gateway.api.rendering import Rendering, Reply, in_slices, reply_of
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import EmbeddingCall, EmbeddingResult, RerankCall, RerankResult
from gateway.vectors import as_floats

_EMBED_KNOWN = frozenset({
    "model", "inputs", "truncate", "truncation_direction", "normalize", "prompt_name", "dimensions",
})  # fmt: skip
_RERANK_KNOWN = frozenset({
    "model", "query", "texts", "truncate", "truncation_direction", "return_text",
})  # fmt: skip


@dataclass(slots=True)
class _Embedding:
    call: EmbeddingCall

    @property
    def items(self) -> int:
        return len(self.call.inputs)

    def render(self, result: EmbeddingResult, _request_id: bytes) -> Rendering:
        slices = yield from in_slices(result.vectors, as_floats)
        return reply_of(b"[", slices, b"]", result.model, result.timings)


class Embed:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> _Embedding:
        if "inputs" not in fields:
            raise BadRequest("inputs is missing", param="inputs")
        value = fields["inputs"]
        refuse_tokens(value, "inputs")
        if fields.get("normalize") is not None and not flag_of(fields, "normalize"):
            raise BadRequest(
                "normalize must be true: whether vectors are normalised is a property of the server",
                param="normalize",
            )
        _check_truncation(fields)
        role = role_of(fields, "prompt_name")
        if fields.get("prompt_name") is not None and role is None:
            raise BadRequest("prompt_name must be query or document", param="prompt_name")
        inputs = texts_of([value] if type(value) is str else value, "inputs", self._limits)
        params = params_of(fields, _EMBED_KNOWN)
        return _Embedding(
            EmbeddingCall(
                inputs, model_of(fields), dimensions=dimensions_of(fields), role=role, params=params
            )
        )


@dataclass(slots=True)
class _Reranking:
    call: RerankCall
    texts: list[str] | None
    """None when they are not wanted."""

    @property
    def items(self) -> int:
        return len(self.call.documents)

    def render(self, result: RerankResult, _request_id: bytes) -> Reply:
        texts = self.texts
        ranks = [
            {"index": index, "score": score} | ({"text": texts[index]} if texts else {})
            for index, score in result.ranking
        ]
        return Reply(orjson.dumps(ranks), result.model, result.timings)


class Rerank:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> _Reranking:
        _check_truncation(fields)
        call = RerankCall(
            text_of(fields, "query", self._limits),
            texts_of(fields.get("texts"), "texts", self._limits),
            model_of(fields),
            params=params_of(fields, _RERANK_KNOWN),
        )
        return _Reranking(call, fields["texts"] if flag_of(fields, "return_text") else None)


def _check_truncation(fields: Mapping[str, Any]) -> None:
    flag_of(fields, "truncate")  # Infinity always truncates
    if fields.get("truncation_direction") not in (None, "Right", "right"):
        raise BadRequest(
            "truncation_direction must be Right: the server keeps the beginning of a text",
            param="truncation_direction",
        )

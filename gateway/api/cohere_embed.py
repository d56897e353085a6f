"""Cohere's embed, v1 and v2: texts in, floats out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.cohere import Version
from gateway.api.parsing import dimensions_of, model_of, params_of, role_of, texts_of
from gateway.api.rendering import Rendering, in_slices, reply_of
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import EmbeddingCall, EmbeddingResult
from gateway.vectors import as_floats

_KNOWN = frozenset({
    "model", "texts", "input_type", "embedding_types", "truncate", "output_dimension", "max_tokens",
    "priority",
})  # fmt: skip


@dataclass(slots=True)
class _Embedding:
    call: EmbeddingCall
    texts: list[str]
    version: Version
    by_type: bool
    """Vectors under the name of their type, as v2 has them always and v1 when a type was asked for."""

    @property
    def items(self) -> int:
        return len(self.texts)

    def render(self, result: EmbeddingResult, request_id: bytes) -> Rendering:
        slices = yield from in_slices(result.vectors, as_floats)
        before = b'{"id":"infinity-%b","embeddings":%b' % (
            request_id,
            b'{"float":[' if self.by_type else b"[",
        )
        after = b'%b,"texts":%b,"meta":%b,"response_type":"%b"}' % (
            b"]}" if self.by_type else b"]",
            orjson.dumps(self.texts),
            orjson.dumps(
                {
                    "api_version": {"version": str(self.version)},
                    "billed_units": {"input_tokens": result.tokens},
                }
            ),
            b"embeddings_by_type" if self.by_type else b"embeddings_floats",
        )
        return reply_of(before, slices, after, result.model, result.timings)


class CohereEmbed:
    def __init__(self, limits: LimitsSettings, version: Version) -> None:
        self._limits = limits
        self._version = version

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> _Embedding:
        if "texts" not in fields:
            raise BadRequest("texts is missing; other inputs are not taken here", param="texts")
        types = fields.get("embedding_types")
        if types not in (None, [], ["float"]):
            raise BadRequest(
                f'embedding_types must be left out, or be ["float"]; not {types!r:.100}',
                param="embedding_types",
            )
        if fields.get("truncate") not in (None, "END", "NONE"):
            raise BadRequest(
                "truncate must be END or NONE: the server keeps the beginning of a text", param="truncate"
            )
        if fields.get("input_type") == "image":
            raise BadRequest("input_type must be one for texts, not image", param="input_type")
        call = EmbeddingCall(
            texts_of(fields["texts"], "texts", self._limits),
            model_of(fields),
            dimensions=dimensions_of(fields),
            role=role_of(fields, "input_type"),
            params=params_of(fields, _KNOWN),
        )
        return _Embedding(call, fields["texts"], self._version, self._version == 2 or bool(types))

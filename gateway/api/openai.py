"""`POST /embeddings` as OpenAI has it, with Infinity's and LiteLLM's additions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.api.parsing import (
    check_count,
    dimensions_of,
    is_medium,
    model_of,
    params_of,
    refuse_tokens,
    role_of,
    stripped,
    texts_of,
)
from gateway.api.rendering import ABOUT, Rendering, Reply, about, reply_of, sliced
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import EmbeddingCall, EmbeddingResult, Modality
from gateway.vectors import as_base64, as_floats

_KNOWN = frozenset({
    "model", "input", "encoding_format", "dimensions", "output_dimension", "user", "modality", "input_type",
    "task", "output_dtype", "embedding_type", "truncation", "truncate", "normalized", "late_chunking",
})  # fmt: skip
_BEFORE = b'{"object":"list","data":['
_ROW = b'{"object":"embedding","embedding":%b,"index":%d}'
_AFTER = b"]," + ABOUT + b"}"
_ONE = _BEFORE + _ROW % (b"%b", 0) + _AFTER
"""An answer with one vector, which most have."""

_PLAIN = frozenset({"model", "input", "encoding_format"})
"""What most calls have, and nothing else that would have to be read."""

_NOT_FETCHED = "other addresses are not fetched"

_FIXED = {"normalized": True, "late_chunking": False}
"""Jina's, with what the servers do in any case."""


@dataclass(slots=True)
class Embedded:
    call: EmbeddingCall
    convert: Callable[[bytes], bytes]
    """Writes one vector as the caller wants it."""

    @property
    def items(self) -> int:
        return len(self.call.inputs)

    def render(self, result: EmbeddingResult, request_id: bytes) -> Reply | Rendering:
        fields = about(result.model, result.tokens, request_id)
        if len(result.vectors) == 1:
            body = _ONE % (self.convert(result.vectors[0]), *fields)
            return Reply(body, result.model, result.timings)
        return self._render_many(result, _AFTER % fields)

    def _render_many(self, result: EmbeddingResult, after: bytes) -> Rendering:
        rows = (_ROW % (self.convert(vector), index) for index, vector in enumerate(result.vectors))
        slices = yield from sliced(rows, len(result.vectors))
        return reply_of(_BEFORE, slices, after, result.model, result.timings)


class Embeddings:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> Embedded:
        encoding = _encoding(fields)
        convert = as_base64 if encoding == "base64" else as_floats
        if fields.keys() <= _PLAIN:
            return Embedded(EmbeddingCall(self._inputs(fields, Modality.TEXT), model_of(fields)), convert)
        if fields.get("output_dtype") not in (None, "float"):
            raise BadRequest(
                "output_dtype must be float; other types are a property of the server", param="output_dtype"
            )
        for name, wanted in _FIXED.items():
            if fields.get(name) not in (None, wanted):
                raise BadRequest(
                    f"{name} must be {str(wanted).lower()}; the server knows no other", param=name
                )
        named = fields.get("modality")
        modality = Modality.TEXT if named is None else _modality(named)
        call = EmbeddingCall(
            self._inputs(fields, modality),
            model_of(fields),
            modality,
            dimensions_of(fields),
            role_of(fields, "input_type", "task"),
            params_of(fields, _KNOWN),
        )
        return Embedded(call, convert)

    def _inputs(self, fields: dict[str, Any], modality: Modality) -> list[str]:
        if "input" not in fields:
            raise BadRequest("input is missing", param="input")
        value = fields["input"]
        if type(value) is str:
            if modality is Modality.TEXT:
                return [stripped(value, "input", self._limits)]
            value = [value]
        refuse_tokens(value, "input")
        if modality is Modality.TEXT:
            return texts_of(value, "input", self._limits)
        return self._media(value, modality)

    def _media(self, value: Any, modality: Modality) -> list[str]:
        if type(value) is not list or not all(type(item) is str for item in value):
            raise BadRequest(f"input must be a list of data URIs for modality {modality}", param="input")
        check_count(value, "input", self._limits.media_items_max)
        for item in value:
            if not is_medium(item, self._limits):
                # The server would fetch it, from inside the network it stands in.
                raise BadRequest(
                    f"input for modality {modality} must be data URIs ('data:{modality}/…;base64,…'); "
                    + ("only some hosts are fetched from" if self._limits.media_hosts else _NOT_FETCHED),
                    param="input",
                )
        return value


def _encoding(fields: dict[str, Any]) -> str | None:
    """Under OpenAI's name or Jina's."""
    found: str | None = None
    for name in ("encoding_format", "embedding_type"):
        if (encoding := fields.get(name)) is not None:
            if encoding not in ("float", "base64"):
                raise BadRequest(f"{name} must be float or base64", param=name)
            found = found or str(encoding)
    return found


def _modality(name: Any) -> Modality:
    try:
        return Modality(name)
    except ValueError:
        raise BadRequest("modality must be text, image or audio", param="modality") from None

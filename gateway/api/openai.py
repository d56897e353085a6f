"""`POST /embeddings` as OpenAI has it, with Infinity's and LiteLLM's additions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.parsing import check_count, count_of, model_of, params_of, stripped, texts_of
from gateway.api.rendering import Rendering, Reply, envelope, usage
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import EmbeddingCall, EmbeddingResult, Modality
from gateway.vectors import as_base64, as_floats

_KNOWN = frozenset({
    "model", "input", "encoding_format", "dimensions", "output_dimension", "user", "modality", "input_type",
    "task", "output_dtype",
})  # fmt: skip
_ROLES = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}
_SLICE = 64  # vectors rendered before others get their turn; floats of 64 x 1024 take about a millisecond


@dataclass(slots=True)
class _Embedding:
    call: EmbeddingCall
    convert: Callable[[bytes], bytes]
    """Writes one vector as the caller wants it."""

    @property
    def items(self) -> int:
        return len(self.call.inputs)

    def render(self, result: EmbeddingResult, request_id: bytes) -> Rendering:
        parts: list[bytes] = []
        for index, vector in enumerate(result.vectors):
            if index and index % _SLICE == 0:
                yield
            parts.append(b'{"object":"embedding","embedding":%b,"index":%d}' % (self.convert(vector), index))
        body = b'{"object":"list","data":[%b],"model":%b,"usage":%b,%b}' % (
            b",".join(parts),
            orjson.dumps(result.model),
            usage(result.tokens),
            envelope(request_id),
        )
        return Reply(body, result.model, result.timings)


class Embeddings:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> _Embedding:
        encoding = fields.get("encoding_format")
        if encoding not in (None, "float", "base64"):
            raise BadRequest("encoding_format must be float or base64", param="encoding_format")
        if fields.get("output_dtype") not in (None, "float"):
            raise BadRequest(
                "output_dtype must be float; other types are a property of the server", param="output_dtype"
            )
        role = fields.get("input_type") or fields.get("task")
        named = fields.get("modality")
        modality = Modality.TEXT if named is None else _modality(named)
        call = EmbeddingCall(
            self._inputs(fields, modality),
            model_of(fields),
            modality,
            _dimensions(fields),
            _ROLES.get(role) if isinstance(role, str) else None,
            params_of(fields, _KNOWN),
        )
        return _Embedding(call, as_base64 if encoding == "base64" else as_floats)

    def _inputs(self, fields: dict[str, Any], modality: Modality) -> list[str]:
        if "input" not in fields:
            raise BadRequest("input is missing", param="input")
        value = fields["input"]
        if type(value) is str:
            if modality is Modality.TEXT:
                return [stripped(value, "input", self._limits)]
            value = [value]
        elif type(value) is list and value and _are_tokens(value):
            raise BadRequest(
                "input holds token ids; Infinity takes text. LangChain's OpenAIEmbeddings sends text with "
                "check_embedding_ctx_length=False; with the OpenAI client pass strings",
                param="input",
            )
        if modality is Modality.TEXT:
            return texts_of(value, "input", self._limits)
        return self._media(value, modality)

    def _media(self, value: Any, modality: Modality) -> list[str]:
        if type(value) is not list or not all(type(item) is str for item in value):
            raise BadRequest(f"input must be a list of data URIs for modality {modality}", param="input")
        check_count(value, "input", self._limits.media_items_max)
        for item in value:
            if not item.startswith("data:"):
                # The server would fetch it, from inside the network it stands in.
                raise BadRequest(
                    f"input for modality {modality} must be data URIs ('data:{modality}/…;base64,…'); "
                    "other addresses are not fetched",
                    param="input",
                )
        return value


def _are_tokens(value: list[Any]) -> bool:
    first = value[0]
    return type(first) is int or (type(first) is list and all(type(token) is int for token in first))


def _dimensions(fields: dict[str, Any]) -> int | None:
    for name in ("dimensions", "output_dimension"):
        # Infinity's clients send 0 for "all of them".
        if fields.get(name) is not None and not (type(fields[name]) is int and fields[name] == 0):
            return count_of(fields, name)
    return None


def _modality(name: Any) -> Modality:
    try:
        return Modality(name)
    except ValueError:
        raise BadRequest("modality must be text, image or audio", param="modality") from None

"""Infinity's API as Infinity has it, below /infinity: its shapes, its status codes, its words."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.errors import Told, headers_of, status_of
from gateway.api.infinity import Classified
from gateway.api.openai import Embedded
from gateway.api.parsing import check_depth, check_parts, is_medium
from gateway.api.rendering import ABOUT, Reply, about
from gateway.api.validation import Fields, Problem, invalid, problem
from gateway.core.router import UNNAMED
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest, GatewayError, Unauthorized, UnknownModel
from gateway.messages import (
    Call,
    ClassifyCall,
    EmbeddingCall,
    Modality,
    ModelCard,
    RerankCall,
    RerankResult,
    Scalar,
)
from gateway.service import Gateway
from gateway.vectors import as_base64, as_floats

_TAGS = {modality.value: modality for modality in (Modality.TEXT, Modality.AUDIO, Modality.IMAGE)}
_RANKING = b'{"object":"rerank","results":%b,' + ABOUT + b"}"
_UNREADABLE = "There was an error parsing the body"
_NO_TEXTS: list[str] = []
_ECHOED_BYTES_MAX = 256 * 1024
"""What of a body is repeated in a refusal; what would go beyond is null there."""
_TAG_WORDS = ", ".join(f"'{tag}'" for tag in _TAGS)


def parse(body: bytes | bytearray, limits: LimitsSettings) -> Any:
    """A body as Python's own JSON reads it, which takes more than the standard: NaN, UTF-16, lone surrogates.

    Raises BadRequest that says where it breaks, if that can be said.
    """
    if not body:
        raise invalid([problem("missing", ("body",), "Field required", None)])
    check_parts(body, limits.json_parts_max)
    value = _parsed(body)
    if isinstance(value, dict | list):
        check_depth(value, body, limits.json_depth_max)
    return value


def _parsed(body: bytes | bytearray) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except json.JSONDecodeError as error:
            found = problem("json_invalid", ("body", error.pos), "JSON decode error", {}, error=error.msg)
            raise invalid([found]) from None
        except (ValueError, RecursionError):
            raise BadRequest(_UNREADABLE, detail=_UNREADABLE) from None


class Native:
    """What the dialects below have in common."""

    def __init__(self, limits: LimitsSettings, gateway: Gateway) -> None:
        self._limits = limits
        self._gateway = gateway

    def _fields(self, body: Any, *place: str) -> Fields:
        return Fields(body, ("body", *place), self._limits.text_chars_max)

    def _meant(self, model: str) -> str:
        """A server with one model ignores the name."""
        pools = self._gateway.pools
        return next(iter(pools)) if len(pools) == 1 and not self._gateway.untold() else model


class Embeddings(Native):
    def __call__(self, body: Any, _headers: Mapping[bytes, bytes]) -> Embedded:
        modality = _modality(body)
        return self._read(body, modality, modality.value)

    def _read(self, body: Any, modality: Modality, *place: str) -> Embedded:
        fields, limits = self._fields(body, *place), self._limits
        inputs: list[str] = []
        if not place:  # problems are told in this order
            inputs = fields.required("input", fields.media(limits.media_items_max), [])
        model = fields.optional("model", fields.name, UNNAMED)
        encoding = fields.optional("encoding_format", fields.encoding, "float")
        fields.optional("user", fields.name_or_null, None)
        dimensions = fields.optional("dimensions", fields.integer, 0) if place else 0
        if modality is Modality.TEXT:
            inputs = fields.required("input", fields.text_or_texts(limits.items_max), [])
        elif place:
            inputs = fields.required("input", fields.media(limits.media_items_max), [])
        fields.finish()
        if modality is not Modality.TEXT and not all(is_medium(item, limits) for item in inputs):
            few = "only some hosts are" if limits.media_hosts else "other addresses are not"
            raise BadRequest(f"send data URIs: {few} fetched from here", param="input")
        call = EmbeddingCall(inputs, self._meant(model), modality, dimensions or None)
        return Embedded(call, as_base64 if encoding == "base64" else as_floats)


class Media(Embeddings):
    """The older routes for one modality, without `dimensions`."""

    def __init__(self, limits: LimitsSettings, gateway: Gateway, modality: Modality) -> None:
        super().__init__(limits, gateway)
        self._modality = modality

    def __call__(self, body: Any, _headers: Mapping[bytes, bytes]) -> Embedded:
        return self._read(body, self._modality)


def _modality(body: Any) -> Modality:
    if type(body) is not dict:
        return Modality.TEXT
    named = body.get("modality", "text")
    if type(named) is str and named in _TAGS:
        return _TAGS[named]
    finder = {"discriminator": "get_modality()"}
    if named is None:
        message = "Unable to extract tag using discriminator get_modality()"
        raise invalid([problem("union_tag_not_found", ("body",), message, body, **finder)])
    message = (
        f"Input tag '{named}' found using get_modality() does not match any of the expected tags: "
        + _TAG_WORDS
    )
    context = finder | {"tag": str(named), "expected_tags": _TAG_WORDS}
    raise invalid([problem("union_tag_invalid", ("body",), message, body, **context)])


@dataclass(slots=True)
class _Reranking:
    call: RerankCall
    echoes: bool

    @property
    def items(self) -> int:
        return len(self.call.documents)

    def render(self, result: RerankResult, request_id: bytes) -> Reply:
        documents = self.call.documents
        results = [
            {"relevance_score": score, "index": index, "document": documents[index] if self.echoes else None}
            for index, score in result.ranking
        ]
        body = _RANKING % (orjson.dumps(results), *about(result.model, result.tokens, request_id))
        return Reply(body, result.model, result.timings)


class Rerank(Native):
    def __call__(self, body: Any, _headers: Mapping[bytes, bytes]) -> _Reranking:
        fields = self._fields(body)
        query = fields.required("query", fields.text, "")
        documents = fields.required("documents", fields.texts(self._limits.items_max), _NO_TEXTS)
        echoes = fields.optional("return_documents", fields.flag, default=False)
        raw_scores = fields.optional("raw_scores", fields.flag, default=False)
        model = fields.optional("model", fields.name, UNNAMED)
        top_n = fields.optional("top_n", fields.count_or_null, None)
        fields.finish()
        params: dict[str, Scalar] = {"raw_scores": raw_scores} if "raw_scores" in body else {}
        return _Reranking(RerankCall(query, documents, self._meant(model), top_n, params), echoes)


class Classify(Native):
    def __call__(self, body: Any, _headers: Mapping[bytes, bytes]) -> Classified:
        fields = self._fields(body)
        texts = fields.required("input", fields.texts(self._limits.items_max), _NO_TEXTS)
        model = fields.optional("model", fields.name, UNNAMED)
        fields.optional("raw_scores", fields.flag, default=False)  # it has no effect there either
        fields.finish()
        return Classified(ClassifyCall(texts, self._meant(model)))


class Errors:
    """Errors as Infinity words them. What it has no words for has its shape, and our message."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __call__(self, error: GatewayError | None, call: Call | None = None) -> Told:
        match error:
            case None:
                return _told(500, "InternalServerError: internal error")
            case BadRequest(detail=str() as detail):
                return Told(400, orjson.dumps({"detail": detail}), [])
            case BadRequest(detail=list() as problems):
                return Told(422, _written(problems), [])
            case Unauthorized():
                return Told(401, b'{"detail":"Unauthorized"}', headers_of(error))
            case UnknownModel() | BadRequest(param="model") if call:
                return _told(400, self._about_model(call))
            case BadRequest(param="dimensions"):
                return _told(400, f"<class 'infinity_emb.primitives.MatryoshkaDimError'> -> {error}")
            case _:
                return _told(status_of(error), str(error), headers_of(error))

    def _about_model(self, call: Call) -> str:
        cards, model = self._gateway.models(call.models), call.model
        for card in cards:
            if card.name == model:
                return _cannot(card, call)
        return (
            f"Invalid model: Engine for model name `{model}` not found. "
            f"Available model names are {[card.name for card in cards]}"
        )


def _cannot(card: ModelCard, call: Call) -> str:
    match call:
        case EmbeddingCall(modality=modality):
            method = "embed" if modality is Modality.TEXT else f"{modality}_embed"
            wanted = f"`embed` for modality `{modality}`"
        case RerankCall():
            method, wanted = "rerank", "`rerank`"
        case ClassifyCall():
            method, wanted = "classify", "`classify`"
    return (
        f"ModelNotDeployedError: model=`{card.name}` does not support {wanted}. "
        f"Reason: the loaded moded cannot fullyfill `{method}`. Options are {set(card.capabilities)}."
    )


def _written(problems: list[Problem]) -> bytes:
    room = _ECHOED_BYTES_MAX
    try:
        for found in problems:
            room -= len(orjson.dumps(found["input"])) if room > 0 else 0
            if room <= 0:
                found["input"] = None
        return orjson.dumps({"detail": problems})
    except TypeError:  # half a surrogate pair, or a number past 64 bits
        return json.dumps({"detail": [found | {"input": None} for found in problems]}).encode()


def _told(status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None) -> Told:
    error = {"message": message, "type": None, "param": None, "code": status}
    return Told(status, orjson.dumps({"error": error}), headers or [])


def render_models(gateway: Gateway, permitted: Sequence[str] = ()) -> bytes:
    """Every name that callers may use, all or those of the models `permitted`, with how busy its pool is."""
    most = gateway.settings.admission.queued_items_max
    pools, stats = gateway.pools, {pool.model: pool for pool in gateway.stats()}
    names = gateway.router.names(pools)
    data = []
    for card in gateway.models(permitted):
        pool, state = pools[names[card.name]], stats[names[card.name]]
        queued = sum(state.queued_items.values())
        data.append(
            {
                "id": card.name,
                "stats": {
                    "queue_fraction": queued / most,
                    "queue_absolute": queued,
                    "results_pending": sum(deployment.items for deployment in state.deployments),
                    "batch_size": pool.batch_size,
                },
                "object": "model",
                "owned_by": "infinity",
                "created": _now(),
                "backend": pool.backend,
                "capabilities": card.capabilities,
            }
        )
    return orjson.dumps({"data": data, "object": "list"})


def render_health() -> bytes:
    return orjson.dumps({"unix": time.time()})  # noqa: TID251 - a date for people


def _now() -> int:
    return int(time.time())  # noqa: TID251 - a date for people

"""Cohere's rerank, v1 and v2, with Infinity's `raw_scores` and LiteLLM's tolerance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.api.parsing import count_of, flag_of, model_of, params_of, text_of, texts_of
from gateway.api.rendering import ABOUT, Reply, about
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import RerankCall, RerankResult

RerankDocuments = Literal["auto", "string", "object"]
Version = Literal[1, 2]

_KNOWN = frozenset({
    "model", "query", "documents", "top_n", "top_k", "return_documents", "rank_fields", "user",
    "max_tokens_per_doc", "max_chunks_per_doc", "priority", "truncation",
})  # fmt: skip
_COMMON = b'"meta":%b,' + ABOUT


@dataclass(slots=True)
class Reranking:
    call: RerankCall
    echo: Callable[[int], Any] | None
    """What stands for a document in the answer, by its index; None when documents are not wanted."""
    version: Version = 1

    @property
    def items(self) -> int:
        return len(self.call.documents)

    def render(self, result: RerankResult, request_id: bytes) -> Reply:
        results = orjson.dumps(ranked(result, self.echo))
        if self.version == 2:
            body = b'{"id":"infinity-%b","results":%b,"meta":%b}' % (request_id, results, _meta(result, 2))
        else:
            body = b'{"object":"rerank","results":%b,%b}' % (results, common(result, request_id))
        return Reply(body, result.model, result.timings)


def ranked(result: RerankResult, echo: Callable[[int], Any] | None) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": score} for index, score in result.ranking
    ]
    if echo:
        for entry in results:
            entry["document"] = echo(entry["index"])
    return results


def common(result: RerankResult, request_id: bytes) -> bytes:
    """The fields of an answer that are not its results."""
    return _COMMON % (_meta(result), *about(result.model, result.tokens, request_id))


def _meta(result: RerankResult, version: Version = 1) -> bytes:
    meta: dict[str, Any] = {
        "billed_units": {"total_tokens": result.tokens},
        "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
    }
    if version == 2:
        meta["api_version"] = {"version": "2"}
    if result.warnings:
        meta["warnings"] = result.warnings
    return orjson.dumps(meta)


class Rerank:
    """`documents` says how documents are echoed: Cohere's clients want `{"text": …}`, and LiteLLM's
    `infinity/` provider takes nothing but strings, as Infinity sends them.
    """

    def __init__(self, limits: LimitsSettings, documents: RerankDocuments, version: Version = 1) -> None:
        self._limits = limits
        self._documents = documents
        self._version = version

    def __call__(self, fields: dict[str, Any], headers: Mapping[bytes, bytes]) -> Reranking:
        call, documents = read(fields, self._limits)
        if not flag_of(fields, "return_documents"):
            return Reranking(call, None, self._version)
        if self._documents == "string" or (
            self._documents == "auto" and headers.get(b"user-agent", b"").startswith(b"litellm/")
        ):
            return Reranking(call, documents.__getitem__, self._version)
        return Reranking(call, lambda index: {"text": documents[index]}, self._version)


def read(fields: dict[str, Any], limits: LimitsSettings) -> tuple[RerankCall, list[str]]:
    """The call, and its documents as they came."""
    if fields.get("rank_fields") not in (None, [], ["text"]):
        raise BadRequest("rank_fields must be left out, or name only text", param="rank_fields")
    if "documents" not in fields:
        raise BadRequest("documents is missing", param="documents")
    documents = _plain(fields["documents"])
    top_n, top_k = count_of(fields, "top_n"), count_of(fields, "top_k")
    call = RerankCall(
        text_of(fields, "query", limits),
        texts_of(documents, "documents", limits),
        model_of(fields),
        top_n or top_k,
        params_of(fields, _KNOWN),
    )
    return call, documents


def _plain(documents: Any) -> Any:
    """Documents as strings; Cohere v1 also takes `{"text": …}`."""
    if type(documents) is not list:
        return documents
    return [
        document["text"] if type(document) is dict and type(document.get("text")) is str else document
        for document in documents
    ]

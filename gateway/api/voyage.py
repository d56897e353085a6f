"""Voyage's rerank: its results are `data`, with documents as strings.

`top_k` also comes from callers who mean Cohere's `top_n`, so Cohere's `results` stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.cohere import common, ranked, read
from gateway.api.parsing import flag_of
from gateway.api.rendering import Reply
from gateway.core.settings import LimitsSettings
from gateway.messages import RerankCall, RerankResult


@dataclass(slots=True)
class _Reranking:
    call: RerankCall
    documents: list[str] | None
    """None when they are not wanted."""

    @property
    def items(self) -> int:
        return len(self.call.documents)

    def render(self, result: RerankResult, request_id: bytes) -> Reply:
        documents = self.documents
        body = b'{"object":"list","data":%b,"results":%b,%b}' % (
            orjson.dumps(ranked(result, documents.__getitem__ if documents else None)),
            orjson.dumps(ranked(result, (lambda index: {"text": documents[index]}) if documents else None)),
            common(result, request_id),
        )
        return Reply(body, result.model, result.timings)


class Rerank:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> _Reranking:
        call, documents = read(fields, self._limits)
        return _Reranking(call, documents if flag_of(fields, "return_documents") else None)

"""The paths on which several dialects of reranking meet: a body's fields show whose it is."""

from collections.abc import Mapping
from typing import Any

from gateway.api import cohere, tei, voyage
from gateway.api.rendering import Exchange
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest


class Rerank:
    """TEI's where there are `texts`, Voyage's by fields that only its clients send, else Cohere's."""

    def __init__(self, limits: LimitsSettings, documents: cohere.RerankDocuments) -> None:
        self._cohere = cohere.Rerank(limits, documents)
        self._tei = tei.Rerank(limits)
        self._voyage = voyage.Rerank(limits)

    def __call__(self, fields: dict[str, Any], headers: Mapping[bytes, bytes]) -> Exchange:
        if "texts" in fields:
            if "documents" in fields:
                raise BadRequest(
                    "send texts (as to TEI) or documents (as to Cohere), not both", param="texts"
                )
            return self._tei(fields, headers)
        if "top_k" in fields or "truncation" in fields:
            return self._voyage(fields, headers)
        return self._cohere(fields, headers)

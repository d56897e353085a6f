"""Infinity's own shapes: `POST /classify`, and LiteLLM's list of models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.parsing import model_of, params_of, texts_of
from gateway.api.rendering import ABOUT, Reply, about
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from gateway.messages import ClassifyCall, ClassifyResult, ModelCard

_KNOWN = frozenset({"model", "input", "user"})
_CLASSES = b'{"object":"classify","data":[%b],' + ABOUT + b"}"


@dataclass(slots=True)
class Classified:
    call: ClassifyCall

    @property
    def items(self) -> int:
        return len(self.call.inputs)

    def render(self, result: ClassifyResult, request_id: bytes) -> Reply:
        labels = b",".join(result.labels)
        body = _CLASSES % (labels, *about(result.model, result.tokens, request_id))
        return Reply(body, result.model, result.timings)


class Classify:
    def __init__(self, limits: LimitsSettings) -> None:
        self._limits = limits

    def __call__(self, fields: dict[str, Any], _headers: Mapping[bytes, bytes]) -> Classified:
        if "input" not in fields:
            raise BadRequest("input is missing", param="input")
        texts = texts_of(fields["input"], "input", self._limits)
        return Classified(ClassifyCall(texts, model_of(fields), params_of(fields, _KNOWN)))


def render_model_info(models: list[ModelCard]) -> bytes:
    """The same as LiteLLM has it. Where servers are and what they call a model is no matter of callers."""
    return orjson.dumps(
        {
            "data": [
                {
                    "model_name": model.name,
                    "litellm_params": {"model": f"infinity/{model.name}"},
                    "model_info": {
                        "id": model.name,
                        "db_model": False,
                        "mode": _mode(model.capabilities),
                        "litellm_provider": "infinity",
                        "capabilities": model.capabilities,
                    },
                }
                for model in models
            ]
        }
    )


def _mode(capabilities: tuple[str, ...]) -> str | None:
    """In LiteLLM's words; None until a server has told what the model can do."""
    if any(capability.endswith("embed") for capability in capabilities):
        return "embedding"
    return capabilities[0] if capabilities else None

"""A gateway or an Infinity that is measured."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.bench.inputs import Inputs
from gateway.bench.wire import Route
from gateway.errors import StartError

_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go, and for which model."""

    route: Route
    model: str
    note: str = field(default="")


async def find(
    base: str, key: str | None, inputs: Inputs, model: str | None, *, strict: bool = True
) -> Target:
    """The route of `base` for these calls, and the model: the one that is named, or the only one that can.

    Not `strict`, a name that `base` does not know is not sent: its only model is meant, as servers behind a
    gateway may call it otherwise. Raises StartError in words that name the remedy.
    """
    base = base.rstrip("/")
    route = Route(base + inputs.path, key)
    if model and strict:
        return Target(route, model)
    can = await _models(Route(f"{base}/models", key), inputs.capability)
    if model in can:
        return Target(route, model)
    if len(can) == 1:
        note = f"{route.url} calls the model {can[0]}" if model else ""
        return Target(route, can[0], note)
    if not can:
        raise StartError(f"{route.url}: no model there can {inputs.capability}")
    raise StartError(
        f"{route.url}: several models can {inputs.capability}; say --model, one of {', '.join(can)}"
    )


async def _models(route: Route, capability: str) -> list[str]:
    """Those that can do it, or may: not every server says what its models can do."""
    try:
        status, body = await route.ask(None, _ASK_S)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that DNS cannot have
        raise StartError(f"{route.url}: no answer: {str(error) or 'it took too long'}") from None
    if status in (401, 403):
        raise StartError(f"{route.url} asks for another key: see --key")
    try:
        found: list[dict[str, Any]] = orjson.loads(body)["data"]
        return [each["id"] for each in found if capability in each.get("capabilities", [capability])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StartError(
            f"{route.url} answered {status} and no list of models; is the address right? --model needs none"
        ) from None

"""Which pool answers a call: by name or alias, else the only one that can do what is asked."""

from collections.abc import Collection, Mapping, Sequence

from gateway.core.settings import RouterSettings
from gateway.errors import BadRequest, NoDeployment, UnknownModel
from gateway.messages import Modality, Task

UNNAMED = "default/not-specified"
"""What Infinity's own clients send when their user names no model."""

_SHOWN_CHARS_MAX = 100

_VERBS = {
    "embed": "embed text",
    "image_embed": "embed images",
    "audio_embed": "embed audio",
    "rerank": "rerank",
    "classify": "classify",
}


def capability(task: Task, modality: Modality = Modality.TEXT) -> str:
    """The word in a server's `/models` for being able to do this."""
    return task.value if modality is Modality.TEXT else f"{modality.value}_{task.value}"


class Router:
    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings

    def resolve(self, model: str | None, needed: str, pools: Mapping[str, Collection[str]]) -> str:
        """The name of the pool for a call.

        `needed` is a capability; `pools` says what each pool can do, nothing for one none of whose
        servers has told yet.

        Raises:
            UnknownModel: no pool has that name.
            BadRequest: it cannot do this, or no model was named and several can.
            NoDeployment: no model was named and no server has told what it serves.
        """
        if model is None or model == UNNAMED:
            return self._only(needed, pools)
        name = self._settings.aliases.get(model, model)
        if name not in pools:
            if not pools:
                raise NoDeployment("no server has answered yet")
            shown = model if len(model) <= _SHOWN_CHARS_MAX else model[:_SHOWN_CHARS_MAX] + "…"
            raise UnknownModel(
                f"model {shown!r} is not known here; known are {_listed(pools)}", param="model"
            )
        if pools[name] and needed not in pools[name]:
            able = [other for other in pools if needed in pools[other]]
            raise BadRequest(
                f"model {model!r} cannot {_VERBS[needed]}; "
                + (f"these can: {_listed(able)}" if able else "no model here can"),
                param="model",
            )
        return name

    def with_fallbacks(self, pool: str) -> Sequence[str]:
        """The pool, then those that stand in for it, in order."""
        return (pool, *self._settings.fallbacks.get(pool, ()))

    def names(self, pools: Collection[str]) -> dict[str, str]:
        """Every name that callers may use → its pool."""
        aliases = {alias: pool for alias, pool in self._settings.aliases.items() if pool in pools}
        return {pool: pool for pool in pools} | aliases

    def knows(self, name: str, pools: Collection[str]) -> bool:
        """Whether callers may use that name."""
        return name in pools or self._settings.aliases.get(name) in pools

    def _only(self, needed: str, pools: Mapping[str, Collection[str]]) -> str:
        for task, name in self._settings.default_models.items():
            if needed == task.value and name in pools:
                return name
        able = [name for name, capabilities in pools.items() if needed in capabilities]
        if len(able) == 1:
            return able[0]
        if able:
            raise BadRequest(f"name a model: several can {_VERBS[needed]}: {_listed(able)}", param="model")
        untold = [name for name, capabilities in pools.items() if not capabilities]
        if len(untold) == 1 and len(pools) == 1:
            return untold[0]
        if untold or not pools:
            raise NoDeployment("no server has answered yet")
        raise BadRequest(f"no model here can {_VERBS[needed]}; known are {_listed(pools)}", param="model")


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:20]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

"""Which pool answers a call: by name or alias, else the only one that can do what is asked."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from gateway.core.settings import RouterSettings
from gateway.errors import BadRequest, Forbidden, NoDeployment, UnknownModel
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

    def resolve(
        self,
        model: str | None,
        needed: str,
        pools: Mapping[str, Collection[str]],
        permitted: Sequence[str] = (),
    ) -> str:
        """The name of the pool for a call.

        `needed` is a capability; `pools` says what each pool can do, nothing for one none of whose
        servers has told yet. A caller who is `permitted` only some meets no other pool, not even in errors.

        Raises:
            Forbidden: the caller may not use it, whether it is there or not.
            UnknownModel: no pool has that name.
            BadRequest: it cannot do this, or no model was named and several can.
            NoDeployment: no model was named and no server has told what it serves.
        """
        named = None if model == UNNAMED else model
        if named is not None and not self.permits(permitted, named):
            raise Forbidden(f"this key may not use the model {_short(named)!r}", param="model")
        if not pools:
            raise NoDeployment("no server has answered yet")
        if permitted:
            pools = {name: able for name, able in pools.items() if self.permits(permitted, name)}
        if named is None:
            if not pools:
                raise Forbidden("this key may use no model that is here", param="model")
            return self._only(needed, pools)
        name = self._settings.aliases.get(named, named)
        if name not in pools:
            known = f"; known are {_listed(pools)}" if pools else ""
            raise UnknownModel(f"model {_short(named)!r} is not known here{known}", param="model")
        if pools[name] and needed not in pools[name]:
            able = [other for other in pools if needed in pools[other]]
            raise BadRequest(
                f"model {model!r} cannot {_VERBS[needed]}; "
                + (f"these can: {_listed(able)}" if able else "no model here can"),
                param="model",
            )
        return name

    def with_fallbacks(self, pool: str, permitted: Sequence[str] = ()) -> Sequence[str]:
        """The pool, then those that stand in for it, in order."""
        others = self._settings.fallbacks.get(pool, ())
        return (pool, *(name for name in others if self.permits(permitted, name)))

    def permits(self, permitted: Sequence[str], model: str) -> bool:
        """Whether one of the patterns fits the model by any of its names. With no pattern all are."""
        if not permitted:
            return True
        aliases = self._settings.aliases
        pool = aliases.get(model, model)
        names = (pool, *(alias for alias, meant in aliases.items() if meant == pool))
        return any(fnmatchcase(name, pattern) for name in names for pattern in permitted)

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


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARS_MAX else name[:_SHOWN_CHARS_MAX] + "…"


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:20]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

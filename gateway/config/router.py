"""Read which model is meant: by another name, when one cannot answer, and when a call names none."""

from gateway.config import litellm
from gateway.config.models import Models
from gateway.config.reader import Value, nearest
from gateway.core.settings import RouterSettings
from gateway.messages import Task

_ALIAS_IDLE = {"hidden": "every name is listed"}


class Router:
    """Reads each of the settings, and what a name in them stands for."""

    def __init__(self, models: Models, *, rerank_by_embedding: bool) -> None:
        self._models = models
        self._rerank_by_embedding = rerank_by_embedding
        self._aliases: dict[str, str] = {}

    def read(self, aliases: Value, fallbacks: Value, default_models: Value) -> RouterSettings:
        self._aliases = self._read_aliases(aliases)
        return RouterSettings(
            self._aliases, self._read_fallbacks(fallbacks), self._read_default_models(default_models)
        )

    def _read_aliases(self, value: Value) -> dict[str, str]:
        found = {}
        for alias, given in value.mapping().items():
            target = given.only(("model",), _ALIAS_IDLE)["model"] if isinstance(given.raw, dict) else given
            name = self._find(target)
            if alias in self._models.pools:
                given.problem("expected a name of its own, got that of a model")
            elif name is not None:
                found[alias] = name
        return found

    def _read_fallbacks(self, value: Value) -> dict[str, tuple[str, ...]]:
        """From entries `{NAME: [NAME, ...]}`, in which `allow_different_vectors: true` may stand, too."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in value.items():
            different = entry["allow_different_vectors"].flag()
            for key, given in entry.mapping().items():
                if key == "allow_different_vectors":
                    continue
                source = self._find(Value(given.path, key, given.notes))
                targets = [(item, target) for item in given.items() if (target := self._find(item))]
                if source is None or not targets:
                    continue
                if source in found:
                    given.problem(f"the fallbacks of {source!r} are given twice")
                for item, target in targets:
                    self._check_fallback(item, source, target, different)
                found[source] = tuple(target for _, target in targets)
        return found

    def _check_fallback(self, where: Value, source: str, target: str, different: bool) -> None:
        tasks = {self._task(source), self._task(target)} - {None}
        if source == target:
            where.problem(f"expected another model than {source!r} to fall back to")
        elif len(tasks) == 2:
            where.problem(f"{target!r} cannot answer for {source!r}: they differ in model_info.mode")
        elif not different and not tasks & {Task.RERANK, Task.CLASSIFY}:
            allow = "add allow_different_vectors: true to this entry"
            where.problem(
                f"the vectors of {target!r} are not those of {source!r}; if that is meant {allow}, "
                "and if they do not embed say so in model_info.mode"
            )

    def _read_default_models(self, value: Value) -> dict[Task, str]:
        found: dict[Task, str] = {}
        tasks = {"embed": Task.EMBED, **litellm.MODES}
        value.only(tasks)
        for key, task in tasks.items():
            name = self._find(value[key]) if value[key].given else None
            if name is None:
                continue
            if task in found:
                value[key].problem("expected embed or embedding, which are the same, got both")
            has = self._task(name)
            by_embedding = self._rerank_by_embedding and (task, has) == (Task.RERANK, Task.EMBED)
            if has not in (None, task) and not by_embedding:
                wrong = f"expected a model for it, got {name!r}, which has another model_info.mode"
                value[key].problem(wrong)
            found[task] = name
        return found

    def _find(self, value: Value) -> str | None:
        """The pool that the text at `value` stands for. If there is none, that is noted."""
        text = value.text("the name of a model")
        if text is None:
            return None
        name, pools = self._aliases.get(text, text), self._models.pools
        if name in pools or self._models.learns:
            # Models that are learned have names that are not known yet.
            return name
        if name in self._models.skipped:
            value.notes.warn(value.path, f"left out, since {name!r} is skipped")
        elif pools:
            hint = nearest(name, (*pools, *self._aliases)) or f"expected one of {', '.join(pools)}"
            value.problem(f"no model is named {value.shown()}; {hint}")
        return None

    def _task(self, name: str) -> Task | None:
        return self._models.pools[name].task if name in self._models.pools else None

"""Read `model_list`: the entries of one `model_name` form a pool."""

from dataclasses import dataclass, replace

from gateway.config import litellm
from gateway.config.params import read_params
from gateway.config.reader import Value, join, nearest, shown
from gateway.config.servers import NAME, Servers, read_bases, read_name, read_template, servers_of_environment
from gateway.core.settings import DeploymentSettings, NameSettings, PoolSettings
from gateway.messages import Scalar, Task

_OURS = "infinity/"
_MODEL = "infinity/ and the server's name of the model"
# An entry without one does not contradict the others: a mode is learned, and a missing model is told already.
_MAY_LACK = ("litellm_params.model", "model_info.mode")


@dataclass(slots=True)
class _Draft:
    """A pool while its entries are read."""

    path: str
    """Of its first entry."""
    pool: PoolSettings
    """Without its deployments."""
    facts: dict[str, Scalar]
    """What the other entries must agree with."""
    servers: Servers


class Models:
    """What there is to serve, and the names of what is skipped."""

    def __init__(self, entries: Value, discovery: Value, timeout_s: float | None) -> None:
        """`discovery` may name servers where `entries` are none."""
        self.skipped: list[object] = []
        self.servers: tuple[DeploymentSettings, ...] = ()
        """Where the file lists no models: those of the environment..."""
        self.names: tuple[NameSettings, ...] = ()
        """...and those behind a name."""
        self._drafts: dict[str, _Draft] = {}
        listed = entries.items()
        for entry in listed:
            self._read(entry, timeout_s)
        if not entries.raw:
            self.servers = servers_of_environment(entries.notes, timeout_s)
        if found := read_name(discovery, read_template(Value("", None, entries.notes), timeout_s)):
            self.names = (found,)
            if entries.raw:
                discovery["dns"].problem(
                    "the models behind it are learned; beside model_list it goes into entries"
                )
        if not self.learns and len(self.skipped) == len(listed):
            entries.problem("expected at least one infinity/ model, or INFINITY_API_BASE in the environment")
        self.pools = {
            name: replace(draft.pool, deployments=tuple(draft.servers.found))
            for name, draft in self._drafts.items()
        }

    @property
    def learns(self) -> bool:
        """Whether models are learned from servers, so that not all names are known."""
        return bool(self.servers or self.names)

    def _read(self, entry: Value, timeout_s: float | None) -> None:
        params = entry["litellm_params"]
        if not isinstance(params.raw, dict):
            params.unlike("a mapping")
            return
        model = params["model"].text(_MODEL)
        if model is not None and not model.startswith(_OURS):
            self.skipped.append(entry["model_name"].raw)
            other = params["model"].shown()
            entry.notes.warn(entry.path, f"skipped, since {other} is not an infinity/ model")
            return
        entry.only(litellm.ENTRY, litellm.ENTRY_IDLE)
        name = entry["model_name"].text("the name that callers use") or ""
        server_model = (model or "").removeprefix(_OURS)
        if model is not None and not server_model.strip():
            params["model"].wrong(_MODEL)
        if "*" in name + server_model:
            entry.problem("a wildcard stands for no model here; list each one")
        task, prefixes = _read_info(entry["model_info"])
        template = read_template(params, timeout_s, server_model)
        pool = PoolSettings(name, (), read_params(params), task, prefixes)
        facts = _facts(pool, server_model)
        draft = _Draft(entry.path, pool, facts, Servers())
        if name:
            draft = self._drafts.setdefault(name, draft)
            _agree(draft, entry, facts)
            draft.pool = replace(draft.pool, task=draft.pool.task or task)
        found = read_name(entry["discovery"].only(NAME), template)
        if found and any(str(found) == str(other) and found.path == other.path for other in draft.pool.names):
            entry["discovery"]["dns"].problem(f"expected each name once, got {found} again")
        elif found:
            draft.pool = replace(draft.pool, names=(*draft.pool.names, found))
        for base in read_bases(params, named=entry["discovery"]["dns"].given):
            draft.servers.add(base, template)


def _read_info(info: Value) -> tuple[Task | None, dict[str, str]]:
    """The task, and the prefix of each role."""
    used = ("mode", "prefixes")
    for key, value in info.mapping().items():
        # LiteLLM lets people put there what they like, so that only a slip is a problem.
        if key not in used and (hint := nearest(key, used, cutoff=0.8)):
            value.problem(f"unknown key; {hint}")
    mode = info["mode"].choice(litellm.MODES)
    given = info["prefixes"].only(("query", "document")).mapping()
    texts = {role: value.text(blank=True) for role, value in given.items() if value.given}
    return litellm.MODES[mode] if mode else None, {role: text for role, text in texts.items() if text}


def _facts(pool: PoolSettings, server_model: str) -> dict[str, Scalar]:
    """All that could change a vector, under its path in the entry."""
    return {
        "litellm_params.model": server_model or None,
        **{join("litellm_params", key): value for key, value in pool.params.items()},
        **{f"model_info.prefixes.{role}": text for role, text in pool.prefixes.items()},
        "model_info.mode": litellm.MODE_OF[pool.task] if pool.task else None,
    }


def _agree(draft: _Draft, entry: Value, facts: dict[str, Scalar]) -> None:
    """Vectors of one pool are interchangeable, so its entries agree on all that could change them."""
    for key in dict.fromkeys((*draft.facts, *facts)):
        there, here = draft.facts.get(key), facts.get(key)
        if key in _MAY_LACK and None in (there, here):
            draft.facts[key] = there or here
        elif type(there) is not type(here) or there != here:
            both = f"{key} is {shown(there)} there and {shown(here)} here"
            entry.problem(f"must agree with {draft.path}, which has the same model_name: {both}")

"""Read the sections of a file, each into its record."""

from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gateway.config import litellm
from gateway.config.keys import Keys, KeysFile
from gateway.config.models import Models
from gateway.config.outside import read_media_hosts, read_tls
from gateway.config.reader import Notes, Value, nearest
from gateway.config.router import Router
from gateway.config.seeing import read_logging
from gateway.config.servers import NAME
from gateway.core.settings import (
    BODIES_MIN,
    AdmissionSettings,
    BatchingSettings,
    CacheSettings,
    DiscoverySettings,
    DrainSettings,
    EngineSettings,
    HealthSettings,
    KeySettings,
    LimitsSettings,
    LoggingSettings,
    RetrySettings,
    Secret,
)
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Documents = Literal["auto", "string", "object"]

OpenRoute = Literal["metrics", "docs", "status"]

OPEN_ROUTES: frozenset[OpenRoute] = frozenset(("metrics", "docs"))
"""Prometheus and people who read come without a key; `status` names addresses."""

_GATEWAY = (
    *("batching", "admission", "cache", "health", "limits", "retry", "drain", "default_models"),
    *("rerank_by_embedding", "rerank_documents", "allow_anonymous", "keys", "keys_file", "open_routes"),
    *("media_hosts", "upstream_tls", "logging", "telemetry", "discovery"),
)
_DOCUMENTS: tuple[Documents, ...] = ("auto", "string", "object")
_OPEN_ROUTES: tuple[OpenRoute, ...] = ("metrics", "docs", "status")
_MAY_BE_ZERO = (
    *("wait_s_max", "retries_max", "budget_ratio", "budget_per_s", "hedge_ratio"),
    *("grace_s", "in_flight_s_max", "bytes_max"),
)


@dataclass(frozen=True, slots=True)
class Config:
    engine: EngineSettings
    master_key: Secret | None = None
    """A key that may do all."""
    keys: tuple[KeySettings, ...] = ()
    """Those of the file itself, which stay."""
    keys_file: Path | None = None
    """A file with a list of more keys, which is read again when it changes."""
    keys_in_file: tuple[KeySettings, ...] = ()
    """What it held when it was read."""
    open_routes: frozenset[OpenRoute] = OPEN_ROUTES
    """What is shown without a key, beside health."""
    allow_anonymous: bool = False
    """Serve without a key even where others than this machine can call."""
    drain: DrainSettings = field(default_factory=DrainSettings)
    rerank_documents: Documents = "auto"
    """How `/rerank` echoes documents: `object` as Cohere, `string` as Infinity, `auto` by who asks."""
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    telemetry: bool | None = None
    """Whether traces are exported; None: where the environment names a receiver for them."""
    warnings: tuple[str, ...] = ()
    """What was read and has no effect, one line each."""

    @property
    def keyed(self) -> bool:
        """Whether callers need a key. A file of keys that holds none at the moment lets nobody in."""
        return bool(self.master_key or self.keys or self.keys_file)


def read_config(top: Value, folder: Path) -> Config:
    """`folder` is where relative paths start."""
    top.only(litellm.TOP, litellm.TOP_IDLE)
    for name, value in top["environment_variables"].mapping().items():
        if value.given:
            # The file wins, as in LiteLLM.
            top.notes.environ[name] = str(value.scalar())
    if top["include"].given:
        top["include"].problem("other files are not read; put what they hold here")
    gateway = top["gateway"].only(_GATEWAY)
    general = top["general_settings"].only(litellm.GENERAL, litellm.GENERAL_IDLE)
    engine = _read_engine(top, gateway, folder)
    master_key = read_callers_key(top.notes, general["master_key"])
    keys = Keys(master_key).read(gateway["keys"])
    keys_file, keys_in_file = _read_keys_file(gateway["keys_file"], folder, master_key, keys)
    _warn_of_unknown_models(gateway["keys"], engine)
    return Config(
        engine=engine,
        master_key=master_key,
        keys=keys,
        keys_file=keys_file,
        keys_in_file=keys_in_file,
        open_routes=_read_open_routes(gateway["open_routes"]),
        allow_anonymous=gateway["allow_anonymous"].flag(),
        drain=_read_record(DrainSettings(), gateway["drain"]),
        rerank_documents=gateway["rerank_documents"].choice(_DOCUMENTS) or "auto",
        logging=read_logging(gateway["logging"]),
        telemetry=gateway["telemetry"].flag() if gateway["telemetry"].given else None,
    )


def read_callers_key(notes: Notes, *given: Value) -> Secret | None:
    """The first that is given, in the file or else in the environment."""
    for value in (*given, notes.variable("GATEWAY_MASTER_KEY"), notes.variable("LITELLM_MASTER_KEY")):
        if value.given:
            key = value.secret()
            if key is not None and not key.reveal():
                # A secret that failed to mount must not open the gateway to all.
                remedy = (
                    f"set {value.variable} or unset it" if value.variable else "leave it out to have none"
                )
                value.problem(f"expected a key, got blank text; {remedy}")
            return key
    return None


def _read_keys_file(
    value: Value, folder: Path, master_key: Secret | None, keys: tuple[KeySettings, ...]
) -> tuple[Path | None, tuple[KeySettings, ...]]:
    named = value.text("the path of a file") if value.given else None
    if named is None:
        return None, ()
    path = folder / named
    try:
        return path, KeysFile(path, master_key, keys).read()
    except ConfigError as error:
        for problem in error.problems:
            value.problem(problem)
        return path, ()


def _warn_of_unknown_models(keys: Value, engine: EngineSettings) -> None:
    known = {pool.name for pool in engine.pools} | engine.router.aliases.keys()
    if engine.servers or engine.discovery.names or not known:
        return  # which names there will be is not known yet
    for key in keys.items():
        for model in key["models"].items():
            name = model.raw if isinstance(model.raw, str) else ""
            if not any(fnmatchcase(other, name) for other in known):
                hint = nearest(name, known) or f"there are {', '.join(sorted(known))}"
                model.notes.warn(model.path, f"no model fits {model.shown()}; {hint}")


def _read_open_routes(value: Value) -> frozenset[OpenRoute]:
    if not value.given:
        return OPEN_ROUTES
    return frozenset(route for item in value.items() if (route := item.choice(_OPEN_ROUTES)))


def _read_engine(top: Value, gateway: Value, folder: Path) -> EngineSettings:
    shared = top["litellm_settings"].only(litellm.LITELLM, litellm.LITELLM_IDLE)
    router = top["router_settings"].only(litellm.ROUTER, litellm.ROUTER_IDLE)
    strategy = router["routing_strategy"].choice(litellm.STRATEGIES)
    if strategy not in (None, "least-busy"):
        top.notes.warn(router["routing_strategy"].path, f"{strategy} is not offered here; least-busy is used")
    # As in LiteLLM, router_settings win over litellm_settings.
    retries_max = router["num_retries"].otherwise(shared["num_retries"]).number(whole=True, zero=True)
    retry = RetrySettings() if retries_max is None else RetrySettings(int(retries_max))
    timeout_s, request_timeout_s = router["timeout"].number(), shared["request_timeout"].number()
    discovery = gateway["discovery"].only((*NAME, "refresh_s"))
    models = Models(top["model_list"], discovery, timeout_s or request_timeout_s)
    by_embedding = gateway["rerank_by_embedding"].flag()
    return EngineSettings(
        pools=tuple(models.pools.values()),
        servers=models.servers,
        batching=_read_record(BatchingSettings(), gateway["batching"]),
        admission=_read_record(AdmissionSettings(), gateway["admission"]),
        cache=_read_record(CacheSettings(), gateway["cache"]),
        health=_read_record(HealthSettings(), gateway["health"]),
        discovery=DiscoverySettings(
            discovery["refresh_s"].number() or DiscoverySettings().refresh_s, models.names
        ),
        retry=_read_record(retry, gateway["retry"]),
        limits=replace(
            _read_limits(timeout_s, gateway["limits"]), media_hosts=read_media_hosts(gateway["media_hosts"])
        ),
        router=Router(models, rerank_by_embedding=by_embedding).read(
            router["model_group_alias"],
            router["fallbacks"].otherwise(shared["fallbacks"]),
            gateway["default_models"],
        ),
        upstream_tls=read_tls(gateway["upstream_tls"], folder),
        rerank_by_embedding=by_embedding,
    )


def _read_limits(timeout_s: float | None, value: Value) -> LimitsSettings:
    default = LimitsSettings()
    if timeout_s is not None:
        default = replace(default, timeout_s=timeout_s, timeout_s_max=max(timeout_s, default.timeout_s_max))
    limits = _read_record(default, value)
    if limits.timeout_s > limits.timeout_s_max:
        value["timeout_s_max"].problem(
            f"expected at least timeout_s, {limits.timeout_s:g}, got {limits.timeout_s_max:g}"
        )
    if limits.in_all_bodies_max < (least := BODIES_MIN * limits.body_bytes_max):
        value["bodies_bytes_max"].problem(
            f"expected at least {least}, {BODIES_MIN} times body_bytes_max, got {limits.bodies_bytes_max}"
        )
    return limits


_Record = TypeVar("_Record", bound="DataclassInstance")


def _read_record(default: _Record, value: Value) -> _Record:
    """`default` with what `value` has under the names of its fields."""
    names = {name_in_file(item.name): item for item in fields(default) if item.default != ()}
    value.only(names)
    found: dict[str, Any] = {}
    for key, item in names.items():
        if value[key].raw == "auto" and item.default is None:
            continue
        number = value[key].number(whole=item.type is not float, zero=item.name in _MAY_BE_ZERO)
        if number is not None:
            found[item.name] = number / 1000 if key == "max_wait_ms" else number
    return replace(default, **found)


def name_in_file(name: str) -> str:
    """A field's own, but for the one time so short that it is given in milliseconds."""
    return "max_wait_ms" if name == "wait_s_max" else name

"""Tell a person what a configuration comes to."""

from dataclasses import asdict, fields

from gateway.config.litellm import MODE_OF
from gateway.config.reader import shown
from gateway.config.sections import OPEN_ROUTES, Config, name_in_file
from gateway.core.settings import (
    DeploymentSettings,
    DiscoverySettings,
    KeySettings,
    LoggingSettings,
    NameSettings,
    PoolSettings,
    RouterSettings,
)


def describe(config: Config) -> str:
    """What would run, for a person to read: no secret is in it, and `config.warnings` are not."""
    engine, lines = config.engine, list[str]()
    for pool in engine.pools:
        lines += [*_pool(pool, engine.router), ""]
    if engine.servers or engine.discovery.names:
        lines += ["Servers, whose models are learned from them"]
        lines += [*map(_deployment, engine.servers), *map(_name, engine.discovery.names)]
        lines += [f"  also called: {alias} for {name}" for alias, name in engine.router.aliases.items()]
        lines.append("")
    anyone = ", anyone may call" if config.allow_anonymous and not config.keyed else ""
    lines.append(f"Callers' key: {'set' if config.master_key else f'not set{anyone}'}")
    lines += _keys("Named keys", config.keys)
    if config.keys_file:
        lines += _keys(f"Named keys in {config.keys_file}", config.keys_in_file) or [
            f"Named keys in {config.keys_file}: none"
        ]
    return "\n".join([*lines, *_changed(config)])


def _pool(pool: PoolSettings, router: RouterSettings) -> list[str]:
    mode = MODE_OF[pool.task] if pool.task else "mode learned from the servers"
    default_for = [MODE_OF[task] for task, name in router.default_models.items() if name == pool.name]
    facts = {
        "passed on": [f"{key}: {shown(value)}" for key, value in pool.params.items()],
        "prefixes": [f"{role} {text!r}" for role, text in pool.prefixes.items()],
        "also called": [alias for alias, name in router.aliases.items() if name == pool.name],
        "falls back to": router.fallbacks.get(pool.name, ()),
        "meant when a call names no model": default_for,
    }
    lines = [f"{pool.name} ({mode}): {pool.server_model}"]
    lines += [*map(_deployment, pool.deployments), *map(_name, pool.names)]
    return lines + [f"  {fact}: {', '.join(values)}" for fact, values in facts.items() if values]


def _deployment(deployment: DeploymentSettings) -> str:
    key = "key set" if deployment.api_key else "no key"
    weight = f", weight {deployment.weight:g}" if deployment.weight != 1 else ""
    return f"  {deployment.api_base}, {key}, timeout {deployment.timeout_s:g} s{weight}"


def _name(name: NameSettings) -> str:
    addresses = "address" if name.family == "any" else name.family.replace("ip", "IP") + " address"
    return f"{_deployment(name.template)}, at each {addresses} of the name"


def _keys(title: str, keys: tuple[KeySettings, ...]) -> list[str]:
    return [title, *map(_key, keys)] if keys else []


def _key(key: KeySettings) -> str:
    limits = {
        "requests a minute": key.requests_per_minute,
        "items a minute": key.items_per_minute,
        "calls at once": key.concurrency,
    }
    facts = [", ".join(key.models) or "all models"]
    facts += [f"{most} {what}" for what, most in limits.items() if most is not None]
    return f"  {key.name}: {'; '.join(facts)}{'; bulk' if key.bulk else ''}"


def _changed(config: Config) -> list[str]:
    """The settings that are not at their defaults, under the names that they have in the file."""
    engine, lines = config.engine, list[str]()
    for part in ("batching", "admission", "cache", "health", "retry", "limits", "drain"):
        record = config.drain if part == "drain" else getattr(engine, part)
        for item in fields(record):
            value = getattr(record, item.name)
            if value != item.default and not isinstance(value, tuple):
                in_file = value * 1000 if item.name == "wait_s_max" else value
                lines.append(f"{part}.{name_in_file(item.name)}: {in_file:.12g}")
    lines += [f"media_hosts: {', '.join(engine.limits.media_hosts)}"] if engine.limits.media_hosts else []
    lines += [f"upstream_tls.{key}: {path}" for key, path in asdict(engine.upstream_tls).items() if path]
    lines += ["rerank_by_embedding: true"] if engine.rerank_by_embedding else []
    lines += [f"rerank_documents: {config.rerank_documents}"] if config.rerank_documents != "auto" else []
    if (refresh_s := engine.discovery.refresh_s) != DiscoverySettings().refresh_s:
        lines.append(f"discovery.refresh_s: {refresh_s:g}")
    logging = LoggingSettings()
    for key, value in asdict(config.logging).items():
        lines += [f"logging.{key}: {value}"] if value != getattr(logging, key) else []
    lines += [] if config.telemetry is None else [f"telemetry: {str(config.telemetry).lower()}"]
    if config.open_routes != OPEN_ROUTES:
        lines.append(f"open_routes: {', '.join(sorted(config.open_routes)) or 'none'}")
    return lines

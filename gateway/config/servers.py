"""Where the servers are: an entry's `api_base` or `api_bases`, or INFINITY_API_BASE, as deployments; or a
name, each address of which is one.
"""

import re
from dataclasses import replace
from urllib.parse import urlsplit

from gateway.config.reader import Notes, Value
from gateway.core.settings import DeploymentSettings, Family, NameSettings

NAME = ("dns", "scheme", "path", "family")
"""The words for a name that is looked up."""
_SCHEMES = ("http", "https")
_FAMILIES: tuple[Family, ...] = ("any", "ipv4", "ipv6")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)


class Servers:
    """The deployments of one pool: each server once, and each with a name of its own."""

    def __init__(self) -> None:
        self.found: list[DeploymentSettings] = []
        self._paths: dict[tuple[str, str], str] = {}

    def add(self, base: Value, template: DeploymentSettings) -> None:
        """`template`, which has all but the place, at the address that stands at `base`."""
        api_base = _address(base)
        if api_base is None:
            return
        parts = urlsplit(api_base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        name = f"{parts.netloc.removesuffix(f':{port}')}:{port}{parts.path}"
        place = parts.scheme, name
        if place in self._paths:
            base.problem(f"expected each server once, got that of {self._paths[place]} again")
        self._paths[place] = base.path
        if any(other.name == name for other in self.found):
            # http and https may share a port in name only.
            name = f"{parts.scheme}://{name}"
        self.found.append(replace(template, name=name, api_base=api_base))


def read_name(value: Value, template: DeploymentSettings) -> NameSettings | None:
    """From `{dns: HOST:PORT}`, with `scheme`, `path` and `family` where they are unusual; None where that is
    not given, or wrong.
    """
    if not value["dns"].given:
        for key in NAME[1:]:
            if value[key].given:
                value[key].problem("expected dns beside it")
        return None
    host, _, port = (value["dns"].text("HOST:PORT") or "").strip().rpartition(":")
    if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
        value["dns"].wrong("HOST:PORT, a name in DNS and the port of each server")
        return None
    scheme = value["scheme"].choice(_SCHEMES) or "http"
    family = value["family"].choice(_FAMILIES) or "any"
    path = (value["path"].text("a path such as /infinity") or "") if value["path"].given else ""
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~%!$&'()*+,;=:@-]+)+", path, re.ASCII):
        value["path"].wrong("a path such as /infinity")
        return None
    api_base = f"{scheme}://{host}:{port}{path}"
    return NameSettings(host, int(port), replace(template, api_base=api_base), path, family)


def servers_of_environment(notes: Notes, timeout_s: float | None = None) -> tuple[DeploymentSettings, ...]:
    """Those of INFINITY_API_BASE, whose models are learned."""
    return servers_at(_environments(notes), timeout_s)


def servers_at(bases: Value, timeout_s: float | None = None) -> tuple[DeploymentSettings, ...]:
    """Those of comma-separated addresses, whose models are learned."""
    servers, template = Servers(), read_template(Value("", None, bases.notes), timeout_s)
    for base in _separated(bases):
        servers.add(base, template)
    return tuple(servers.found)


def read_bases(params: Value, *, named: bool = False) -> list[Value]:
    """The addresses in an entry's parameters. `named`: it may have none, since a name stands for servers."""
    one, several = params["api_base"], params["api_bases"]
    if one.given and several.given:
        several.problem("expected api_base or api_bases, got both")
    # LiteLLM's rerank takes the variable, so that its documentation leaves the address out.
    bases = [one] if one.given else several.items()
    if not bases and not named:
        bases = _separated(_environments(params.notes))
    if not bases and not named:
        one.problem("expected http://HOST:PORT, got nothing, and INFINITY_API_BASE is not set")
    return bases


def read_template(
    params: Value, timeout_s: float | None, server_model: str | None = None
) -> DeploymentSettings:
    """A deployment but for its place."""
    key = params["api_key"].otherwise(params.notes.variable("INFINITY_API_KEY")).secret()
    default = DeploymentSettings("", "")
    return DeploymentSettings(
        name="",
        api_base="",
        server_model=server_model,
        # A blank key is none: so a server without one is not shown the key of the others.
        api_key=key if key and key.reveal() else None,
        weight=params["weight"].number() or default.weight,
        timeout_s=params["timeout"].number() or timeout_s or default.timeout_s,
    )


def _environments(notes: Notes) -> Value:
    return Value("INFINITY_API_BASE", notes.environ.get("INFINITY_API_BASE", ""), notes)


def _separated(bases: Value) -> list[Value]:
    parts = str(bases.raw).split(",")
    return [Value(bases.path, part.strip(), bases.notes) for part in parts if part.strip()]


def _address(base: Value) -> str | None:
    """A server's URL in its plain form. What may be a password in it is never quoted."""
    url = (base.text("http://HOST:PORT") or "").strip()
    if not url:
        return None
    for sign, meaning in {"@": "a user or password", "?": "a query", "#": "a fragment"}.items():
        if sign in url:
            base.problem(f"expected http://HOST:PORT without {meaning}; a key goes into api_key")
            return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", url):
        base.wrong("http://HOST:PORT or https://HOST:PORT")
        return None
    # LiteLLM takes a route itself for a base, too.
    path = re.sub(r"/+(embeddings|rerank)$", "", parts.path.rstrip("/")).rstrip("/")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"

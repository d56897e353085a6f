"""Names in the configuration."""

from typing import Any

import pytest
import yaml

from gateway.config import Config, describe, parse
from gateway.core.settings import DeploymentSettings, NameSettings, Secret
from gateway.errors import ConfigError


def read(*, discovery: Any = None, environ: dict[str, str] | None = None, **gateway: Any) -> Config:
    params = {"model": "infinity/m", "api_key": "sk-1", "timeout": 7}
    entry = {"model_name": "a", "litellm_params": params, "discovery": discovery}
    models = [] if discovery is None else [entry]
    return parse(yaml.safe_dump({"model_list": models, "gateway": gateway}), environ or {})


def problems(**given: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(**given)
    return list(caught.value.problems)


def test_a_name_of_an_entry() -> None:
    """Its servers have what stands in the entry; the name is looked up, not a server itself."""
    config = read(
        discovery={"dns": "h.svc:7997", "scheme": "https", "path": "/v1/", "family": "ipv6"},
        environ={"INFINITY_API_BASE": "http://unused"},
    )

    (pool,) = config.engine.pools
    template = DeploymentSettings("", "https://h.svc:7997/v1", "m", Secret("sk-1"), timeout_s=7)
    assert pool.names == config.engine.names == (NameSettings("h.svc", 7997, template, "/v1", "ipv6"),)
    assert pool.deployments == config.engine.servers == ()
    assert pool.server_model == "m"
    assert config.engine.discovery.refresh_s == 5
    server = pool.names[0].deployment("fd00::1")
    assert (server.name, server.address) == ("[fd00::1]:7997/v1", "fd00::1")
    assert "a (mode learned from the servers): m\n  https://h.svc:7997/v1, key set" in describe(config)
    assert "at each IPv6 address of the name" in describe(config)


def test_a_name_whose_models_are_learned() -> None:
    """Beside servers of the environment, too."""
    found = parse(
        "gateway: {discovery: {dns: 'h:80', refresh_s: 2}}",
        {"INFINITY_API_BASE": "http://x", "INFINITY_API_KEY": "sk-2"},
    )
    template = DeploymentSettings("", "http://h:80", api_key=Secret("sk-2"))
    assert found.engine.discovery.names == (NameSettings("h", 80, template),)
    assert len(found.engine.servers) == 1
    assert "discovery.refresh_s: 2" in describe(found)


@pytest.mark.parametrize(
    ("discovery", "problem"),
    [
        ({}, None),
        ({"dns": "h"}, "dns: expected HOST:PORT, a name in DNS and the port of each server, got 'h'"),
        ({"dns": "http://h:1"}, "dns: expected HOST:PORT, a name in DNS and the port of each server"),
        ({"dns": "h:70000"}, "dns: expected HOST:PORT"),
        ({"dns": "h:1", "scheme": "ftp"}, "scheme: expected one of http, https, got 'ftp'"),
        ({"dns": "h:1", "family": "v4"}, "family: expected one of any, ipv4, ipv6, got 'v4'"),
        ({"dns": "h:1", "path": "x"}, "path: expected a path such as /infinity, got 'x'"),
        ({"dns": "h:1", "port": 1}, "port: unknown key; "),
        ({"scheme": "https"}, "scheme: expected dns beside it"),
        ("h:1", "expected a mapping"),
    ],
)
def test_what_does_not_fit_is_refused(discovery: Any, problem: str | None) -> None:
    found = problems(discovery=discovery)

    if problem is None:
        assert found[0].startswith(
            "model_list[0].litellm_params.api_base: expected http://HOST:PORT, got nothing"
        )
    else:
        separator = "." if isinstance(discovery, dict) else ": "
        assert found[0].startswith(f"model_list[0].discovery{separator}{problem}")


def test_learned_models_and_listed_ones_do_not_mix() -> None:
    content = {
        "model_list": [
            {"model_name": "a", "litellm_params": {"model": "infinity/m", "api_base": "http://x"}}
        ],
        "gateway": {"discovery": {"dns": "h:1"}},
    }
    with pytest.raises(ConfigError) as caught:
        parse(yaml.safe_dump(content), {})
    assert list(caught.value.problems) == [
        "gateway.discovery.dns: the models behind it are learned; beside model_list it goes into entries"
    ]

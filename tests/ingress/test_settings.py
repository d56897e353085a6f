"""What stands in deploy/ingress follows from the gateway's limits, and the chart says the same."""

import re
from functools import cache
from typing import Any

import pytest
import yaml

from gateway.core.settings import LimitsSettings
from tests.deploy.chart import MINIMAL, manifests, of_kind
from tests.ingress.proxies import FOLDER

LIMITS = LimitsSettings()
PREFIX = "nginx.ingress.kubernetes.io/"
OF_THE_CONTROLLER = {"proxy-request-buffering": "on"}
"""Annotations that say nginx's own default."""
DIRECTIVES = {
    "proxy-body-size": "client_max_body_size",
    "proxy-read-timeout": "proxy_read_timeout",
    "proxy-connect-timeout": "proxy_connect_timeout",
    "proxy-next-upstream": "proxy_next_upstream",
    "proxy-next-upstream-tries": "proxy_next_upstream_tries",
    "proxy-next-upstream-timeout": "proxy_next_upstream_timeout",
    "client-body-buffer-size": "client_body_buffer_size",
}


@cache
def nginx(directive: str) -> str:
    (found,) = re.findall(rf"(?m)^ *{directive} (.+?);", (FOLDER / "nginx.conf").read_text())
    return str(found)


def envoy(*path: str | int) -> Any:
    """What stands there, below the listener's connection manager or the cluster."""
    config = yaml.safe_load((FOLDER / "envoy.yaml").read_text())["static_resources"]
    (network,) = config["listeners"][0]["filter_chains"][0]["filters"]
    found = {"listener": network["typed_config"], "cluster": config["clusters"][0]}
    for name in path:
        found = found[name]  # type: ignore[index]
    return found


ROUTE = ("listener", "route_config", "virtual_hosts", 0, "routes", 0, "route")


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def test_the_gateway_ends_calls_and_refuses_bodies_before_the_ingress_does() -> None:
    assert int(nginx("client_max_body_size")) == LIMITS.body_bytes_max + 1
    assert seconds(nginx("proxy_read_timeout")) > LIMITS.timeout_s_max
    assert seconds(envoy(*ROUTE, "timeout")) > LIMITS.timeout_s_max
    assert seconds(envoy("listener", "stream_idle_timeout")) > LIMITS.timeout_s_max


def test_the_ingress_gives_up_connections_before_the_gateway_does() -> None:
    (protocol,) = envoy("cluster", "typed_extension_protocol_options").values()
    kept_s = protocol["common_http_protocol_options"]["idle_timeout"]
    assert seconds(nginx("keepalive_timeout")) == seconds(kept_s) < LIMITS.keep_alive_s


def test_nothing_is_tried_again_that_was_answered_or_took_too_long() -> None:
    assert nginx("proxy_next_upstream") == "error timeout non_idempotent"
    assert seconds(nginx("proxy_next_upstream_timeout")) < seconds(nginx("proxy_read_timeout"))
    policy = envoy(*ROUTE, "retry_policy")
    assert policy["retry_on"].split(",") == ["connect-failure", "reset"]
    assert policy["num_retries"] + 1 == int(nginx("proxy_next_upstream_tries")) == 2
    assert "per_try_timeout" not in policy
    outlier = envoy("cluster", "outlier_detection")
    assert {value for name, value in outlier.items() if "enforcing" in name} == {0}


def test_the_charts_annotations_say_the_same() -> None:
    values = ("--set", "ingress.enabled=true,ingress.host=a.example.com")
    annotations = of_kind(manifests(MINIMAL, *values), "Ingress")["metadata"]["annotations"]
    said = {name.removeprefix(PREFIX): value for name, value in annotations.items()}
    assert said.keys() == DIRECTIVES.keys() | OF_THE_CONTROLLER.keys()
    for name, directive in DIRECTIVES.items():
        written = nginx(directive)
        assert said[name] == (written.removesuffix("s") if "timeout" in name else written), name


@pytest.mark.parametrize("directive", [*DIRECTIVES.values(), "keepalive_timeout", "max_fails"])
def test_the_page_says_why(directive: str) -> None:
    assert f"`{directive}" in (FOLDER.parents[1] / "docs/ingress.md").read_text()

"""`gateway.logging` and `gateway.telemetry`."""

from typing import Any

import pytest
import yaml

from gateway.config import Config, describe, parse
from gateway.core.settings import LoggingSettings
from gateway.errors import ConfigError


def read(**gateway: Any) -> Config:
    return parse(yaml.safe_dump({"gateway": gateway}), {"INFINITY_API_BASE": "http://a"})


def test_by_default_there_is_a_log_and_no_access_log() -> None:
    config = read()

    assert config.logging == LoggingSettings("auto", "info", 0.0)
    assert config.telemetry is None
    assert "logging" not in describe(config)
    assert "telemetry" not in describe(config)


def test_what_is_set_is_read_and_described() -> None:
    config = read(logging={"format": "json", "level": "warning", "access_log": 0.01}, telemetry=False)

    assert config.logging == LoggingSettings("json", "warning", 0.01)
    assert config.telemetry is False
    for line in ("format: json", "level: warning", "access_log: 0.01"):
        assert f"logging.{line}" in describe(config)
    assert "telemetry: false" in describe(config)


@pytest.mark.parametrize(
    ("gateway", "problem"),
    [
        (
            {"logging": {"format": "xml"}},
            "gateway.logging.format: expected one of auto, json, human",
        ),
        ({"logging": {"level": "debug"}}, "gateway.logging.level: expected one of info, warning, error"),
        (
            {"logging": {"access_log": 2}},
            "gateway.logging.access_log: expected a share of calls",
        ),
        ({"logging": {"access_log": -0.1}}, "gateway.logging.access_log: expected a number from 0"),
        ({"logging": {"acces_log": 1}}, "gateway.logging.acces_log: unknown key; did you mean access_log?"),
        ({"logging": "json"}, "gateway.logging: expected a mapping, got text"),
        ({"telemetry": "on please"}, "gateway.telemetry: expected true or false"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(gateway: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**gateway)

    assert any(found.startswith(problem) for found in error.value.problems), error.value.problems

"""Configurations for stand-ins, in a line each."""

import hashlib
from dataclasses import fields
from typing import Any

import pytest

from gateway.config import Config
from gateway.core.settings import (
    DeploymentSettings,
    EngineSettings,
    HealthSettings,
    KeySettings,
    PoolSettings,
)
from tests.fakes.infinity import FakeInfinity

SHARED = pytest.mark.asyncio(loop_scope="module")
"""For the modules whose tests share one gateway."""

_PATIENT = HealthSettings(probe_interval_s=0.02, silent_s_max=600, probe_timeout_s=10)
"""Servers that come are noticed at once, and canaries do not disturb what is counted."""


def deployment(fake: FakeInfinity, model: str, **options: Any) -> DeploymentSettings:
    assert fake.port, "a stand-in has its address once it has been started"
    return DeploymentSettings(fake.url.removeprefix("http://"), fake.url, model, **options)


def pool(
    name: str, *fakes: FakeInfinity, model: str = "", timeout_s: float = 30, **options: Any
) -> PoolSettings:
    """A pool of `fakes`, all of which call it by the same name unless `model` says another."""
    deployments = (deployment(fake, model or name, timeout_s=timeout_s) for fake in fakes)
    return PoolSettings(name, tuple(deployments), **options)


def preferring(name: str, first: FakeInfinity, second: FakeInfinity, **options: Any) -> PoolSettings:
    """A pool of two of which, while both are idle, the first gets the batch: ties go by weight."""
    heavy = deployment(first, name, weight=1e12, **options)
    return PoolSettings(name, (heavy, deployment(second, name, **options)))


def pools_of(*fakes: FakeInfinity) -> list[PoolSettings]:
    """A pool for every model of the first."""
    return [pool(model.name, *fakes) for model in fakes[0].models]


def engine(*pools: PoolSettings, **options: Any) -> EngineSettings:
    return EngineSettings(pools, **{"health": _PATIENT, **options})


def named_key(name: str, key: str, **rules: Any) -> KeySettings:
    return KeySettings(name, hashlib.sha256(key.encode()).digest(), **rules)


def config(*pools: PoolSettings, **options: Any) -> Config:
    """A configuration with these pools. Options that `Config` knows are its own, all others the engine's."""
    known = {field.name for field in fields(Config)}
    own = {name: options.pop(name) for name in known & options.keys()}
    return Config(engine(*pools, **options), **own)

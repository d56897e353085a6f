"""The rules between the parts: who imports whom, what is loaded, and that the edge knows every error."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway import errors
from gateway.api.errors import STATUS, body_of, headers_of, status_of
from gateway.errors import ConfigError, GatewayError

ROOT = Path(__file__).parent.parent
CORE = sorted(path.stem for path in (ROOT / "gateway" / "core").glob("*.py") if path.stem != "__init__")
FOREIGN = {"aiohttp", "starlette", "uvicorn", "prometheus_client", "numpy", "orjson", "asyncio"}


def test_imports_point_one_way() -> None:
    """The contracts in pyproject.toml hold."""
    command = Path(sys.executable).parent / "lint-imports"

    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(*modules: str) -> set[str]:
    """Which packages a fresh interpreter has loaded after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_the_core_loads_no_library() -> None:
    """It decides over plain data; a benchmark or a simulation can run it by itself."""
    assert "balancer" in CORE

    loaded = loaded_by(*(f"gateway.core.{name}" for name in CORE))

    assert not loaded & FOREIGN


def test_the_package_itself_loads_next_to_nothing() -> None:
    """Importing a part runs `gateway/__init__.py` first, so that must not load the rest."""
    assert not loaded_by("gateway") & FOREIGN


def leaves(kind: type[GatewayError]) -> list[type[GatewayError]]:
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


LEAVES = sorted(set(leaves(GatewayError)) - {ConfigError}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_has_a_status(kind: type[GatewayError]) -> None:
    """No error of ours may become a bare 500."""
    error = kind("what went wrong")

    assert 400 <= status_of(error) <= 599
    assert b"what went wrong" in body_of(error)
    assert isinstance(headers_of(error), list)


def test_every_status_is_of_an_error_that_exists() -> None:
    """A row for an error that is gone is a row that nobody reads."""
    assert set(STATUS) == set(LEAVES)


def test_every_error_is_in_the_tree_that_is_drawn() -> None:
    """The picture at the top of `errors.py` is what people read."""
    assert errors.__doc__ is not None
    drawn = errors.__doc__

    assert all(kind.__name__ in drawn for kind in [*LEAVES, ConfigError])


@pytest.mark.parametrize("kind", LEAVES)
def test_what_is_refused_for_now_says_when_to_come_back(kind: type[GatewayError]) -> None:
    """Every 429 and 503 has a `Retry-After`."""
    error = kind("not now")

    has = any(name == b"retry-after" and int(value) >= 1 for name, value in headers_of(error))
    assert has == (status_of(error) in (429, 503))

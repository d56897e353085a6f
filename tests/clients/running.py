"""Runs a client's script in the clients' own environment; reads what its calls gave."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients import inputs
from tests.gateway_process import ROOT

CLIENTS = ROOT / ".clients"
KEY = "sk-1234"

SCRIPTS = (
    "openai_python",
    "openai_javascript",
    "cohere_python",
    "cohere_newer",
    "infinity_client",
    "litellm_sdk",
    "langchain_python",
    "llama_index_python",
    "haystack_python",
    "voyageai_python",
    "rerankers_python",
    "baseten_python",
)

_SECONDS_MAX = 60
_QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONWARNINGS": "ignore",
}

Call = dict[str, Any]
"""client, version, call, kind, routes and got: see scripts/calls.py."""


def clients_executable(name: str) -> Path:
    """An executable of the clients' environment. Its absence is an error, not a skip."""
    executable = CLIENTS / "bin" / name
    if not executable.exists():
        raise RuntimeError(f"No clients: the tests look for {executable}. Make them with `make .clients`.")
    return executable


async def run(command: Sequence[str | Path], environ: Mapping[str, str]) -> str:
    """What a command that ends well writes to stdout. Of our environment it gets PATH and HOME alone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**kept, **_QUIET, **environ},
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{err.decode()[-4000:]}"
    return out.decode()


def python_script(name: str) -> list[str | Path]:
    return [clients_executable("python"), "-m", f"tests.clients.scripts.{name}"]


def gateway_environ(url: str, open_url: str = "") -> dict[str, str]:
    """Where the scripts find the gateway, and where tiktoken finds its files offline: litellm brings them."""
    [tokenizers] = CLIENTS.glob("lib/python*/site-packages/litellm/litellm_core_utils/tokenizers")
    return {
        "GATEWAY_URL": url,
        "OPEN_GATEWAY_URL": open_url or url,
        "GATEWAY_KEY": KEY,
        "TIKTOKEN_CACHE_DIR": str(tokenizers),
    }


@dataclass
class Clients:
    """Each script runs once, when it is first asked for, and alone, since the gateway's counts are shared."""

    environ: dict[str, str]
    _made: dict[str, list[Call]] = field(default_factory=dict)

    async def calls(self, script: str) -> list[Call]:
        if script not in self._made:
            out = await run(self._command(script), self.environ)
            self._made[script] = json.loads(out.splitlines()[-1])
        return self._made[script]

    def _command(self, script: str) -> list[str | Path]:
        if script != "openai_javascript":
            return python_script(script)
        named = {name: value for name, value in vars(inputs).items() if name.isupper()}
        self.environ |= {"NODE_PATH": str(CLIENTS / "node_modules"), "INPUTS": json.dumps(named)}
        return ["node", ROOT / "tests" / "clients" / "scripts" / f"{script}.cjs"]

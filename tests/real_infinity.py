"""Start and stop a real Infinity on loopback.

Nothing outlives the tests: every server has a keeper, a small process between it and us, which ends
the server as soon as the pipe to us closes, even when we were killed.
"""

import asyncio
import functools
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
MODELS = ROOT / ".cache" / "models"
LOGS = ROOT / ".cache" / "infinity-logs"

# argv: the seconds from SIGTERM to SIGKILL, then the command. Prints the server's process id.
KEEPER = """
import os, signal, subprocess, sys, threading

server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
print(server.pid, flush=True)

def keep():
    sys.stdin.read()
    try:
        os.killpg(server.pid, signal.SIGTERM)
        os.killpg(server.pid, signal.SIGCONT)  # A stopped one cannot hear SIGTERM.
        server.wait(float(sys.argv[1]))
    except (subprocess.TimeoutExpired, ProcessLookupError):
        pass

watch = threading.Thread(target=keep, daemon=True)
watch.start()
while watch.is_alive() and server.poll() is None:
    watch.join(0.1)
try:
    os.killpg(server.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
server.wait()
"""

# For `debugengine`: Infinity imports torch when it finds it, which takes 6 seconds more.
WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, transformers=None, sentence_transformers=None)
from infinity_emb.cli import cli
cli()
"""


def infinity_executable() -> Path:
    """`$INFINITY_EMB`, or the one that `make` puts into `.infinity`. Its absence is an error, not a skip."""
    named = os.environ.get("INFINITY_EMB")
    executable = Path(named) if named else ROOT / ".infinity" / "bin" / "infinity_emb"
    if not executable.exists():
        origin = "INFINITY_EMB names" if named else "the tests look for"
        raise RuntimeError(f"No Infinity: {origin} {executable}. Make one with `make .infinity`.")
    return executable


def model_dir(name: str) -> Path:
    """The directory of a tiny model (see models/make_models.py), made on first use."""
    make_models()
    directory = MODELS / name
    if not directory.is_dir():
        made = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
        raise RuntimeError(f"No tiny model is called {name!r}; make_models.py writes {', '.join(made)}.")
    return directory


@functools.cache
def make_models() -> None:
    python = infinity_executable().parent / "python"
    script = Path(__file__).parent / "models" / "make_models.py"
    done = subprocess.run(
        [python, script, MODELS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script} failed with {done.returncode}:\n{done.stdout[-4000:]}")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One `--model-id`, with the options that Infinity takes per model."""

    name: str
    directory: Path | None = None  # Only `debugengine` can do without.
    batch_size: int = 32
    lengths_via_tokenize: bool = False
    embedding_dtype: str = "float32"

    def arguments(self) -> list[str]:
        counting = "--lengths-via-tokenize" if self.lengths_via_tokenize else "--no-lengths-via-tokenize"
        return [
            *("--model-id", str(self.directory or self.name)),
            *("--served-model-name", self.name),
            *("--batch-size", str(self.batch_size)),
            *("--embedding-dtype", self.embedding_dtype),
            counting,
        ]


def tiny_models() -> list[ServedModel]:
    """One of every kind that Infinity serves. tests/fakes/infinity.py has the same, by the same names."""
    return [
        *(ServedModel(n, model_dir(n)) for n in ("bert", "cross", "classifier", "clip", "clap", "colbert")),
        ServedModel("bert-tokens", model_dir("bert"), lengths_via_tokenize=True),
        ServedModel("bert-bits", model_dir("bert"), embedding_dtype="ubinary"),
    ]


class RealInfinity:
    """One `infinity_emb v2` process. Owns its port, from the first start on, and its processes.

    A context manager of both kinds; `async with` starts it without holding up the event loop.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        engine: str = "torch",  # "debugengine" needs no torch: 13 numbers, each the length of the text.
        url_prefix: str = "",
        api_key: str = "",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        start_s_max: float = 90,
        stop_s_max: float = 1,  # Left alone, Infinity would wait for hung requests for ever.
    ) -> None:
        self._models = list(models)
        self._engine = engine
        self._url_prefix = url_prefix
        self._api_key = api_key
        self._flags = list(flags)
        self._env = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        self._start_s_max = start_s_max
        self._stop_s_max = stop_s_max
        self._keeper: subprocess.Popen[str] | None = None
        self.port = 0
        self.pid = 0
        self.start_s = 0.0

    @property
    def url(self) -> str:
        """What a caller writes as base URL: the prefix is part of it."""
        return f"http://127.0.0.1:{self.port}{self._url_prefix}"

    @property
    def log(self) -> Path:
        return LOGS / f"{self.port}.log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Start, and return when /health answers. After `stop` or `kill`: again, on the same port."""
        assert self._keeper is None, "already started"
        began = time.monotonic()
        # Held, but not listening, until Infinity has taken it: loading takes long enough for
        # somebody else to be given the port.
        with socket.socket() as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", self.port))
            self.port = held.getsockname()[1]
            LOGS.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-c", KEEPER, str(self._stop_s_max), *self._command()]
            with self.log.open("w") as log:
                self._keeper = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={**os.environ, **self._env},
                    start_new_session=True,  # Ctrl-C is ours to handle.
                )
            assert self._keeper.stdout is not None
            self.pid = int(self._keeper.stdout.readline() or 0)
            while not self._is_healthy():
                self._check_that_it_may_still_come(began)
                time.sleep(0.05)
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()

    def kill(self) -> None:
        """End it as the kernel ends what takes too much memory: no goodbye on any connection."""
        os.killpg(self.pid, signal.SIGKILL)
        self.stop()

    def pause(self) -> None:
        """It accepts connections (the kernel does) and answers nothing, until `resume`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def _command(self) -> list[str]:
        executable = infinity_executable()
        program = [str(executable)]
        if self._engine == "debugengine":
            program = [str(executable.parent / "python"), "-c", WITHOUT_TORCH]
        return [
            *program,
            "v2",
            *(argument for model in self._models for argument in model.arguments()),
            *("--engine", self._engine, "--device", "cpu", "--no-bettertransformer", "--no-model-warmup"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *(("--url-prefix", self._url_prefix) if self._url_prefix else ()),
            *(("--api-key", self._api_key) if self._api_key else ()),
            *self._flags,
        ]

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _check_that_it_may_still_come(self, began: float) -> None:
        keeper = self._keeper
        ended = keeper is None or keeper.poll() is not None
        if not ended and time.monotonic() - began < self._start_s_max:
            return
        what = "ended while starting" if ended else f"did not answer within {self._start_s_max:g} s"
        output = self.log.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"Infinity {what}. {' '.join(self._command())}\nIts last output:\n{output}")

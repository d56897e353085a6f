"""Read the configuration: LiteLLM's YAML and the environment in, checked settings out.

Only this package knows LiteLLM's words. All problems are told together, each with its path in the file.
A secret is wrapped where it is read, and no message quotes what may be one.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gateway.config.describing import describe
from gateway.config.document import read_document
from gateway.config.keys import KeysFile
from gateway.config.reader import Notes, Value
from gateway.config.sections import Config, OpenRoute, read_callers_key, read_config
from gateway.config.servers import servers_at, servers_of_environment
from gateway.core.settings import EngineSettings, LimitsSettings, Secret
from gateway.errors import ConfigError

__all__ = [
    "Config", "KeysFile", "OpenRoute",
    "callers_key", "describe", "from_environment", "from_servers", "load", "parse",
]  # fmt: skip


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in a YAML file; ConfigError with every problem that it has."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected text in UTF-8, got another at byte {error.start}"]) from error
    return parse(text, environ, path.parent)


def parse(text: str, environ: Mapping[str, str], folder: Path = Path()) -> Config:
    """The same from a string; relative paths in it start at `folder`."""
    notes = Notes(environ)
    config = read_config(Value("", read_document(text, notes), notes), folder)
    notes.raise_problems()
    return replace(config, warnings=notes.warnings())


def from_environment(environ: Mapping[str, str]) -> Config | None:
    """The servers of INFINITY_API_BASE, their models to be learned; None where it is not set."""
    notes = Notes(environ)
    servers = servers_of_environment(notes)
    config = Config(EngineSettings(servers=servers), read_callers_key(notes))
    notes.raise_problems()
    return config if servers else None


def from_servers(api_base: str, api_key: Secret | None, timeout_s: float, limits: LimitsSettings) -> Config:
    """The comma-separated servers of `api_base`, their models to be learned; each has so long for a batch."""
    notes = Notes({"INFINITY_API_KEY": api_key.reveal()} if api_key else {})
    servers = servers_at(Value("api_base", api_base, notes), timeout_s)
    notes.raise_problems()
    return Config(EngineSettings(servers=servers, limits=limits))


def callers_key(environ: Mapping[str, str]) -> Secret | None:
    """What callers must send where neither a file nor INFINITY_API_BASE names servers."""
    notes = Notes(environ)
    key = read_callers_key(notes)
    notes.raise_problems()
    return key

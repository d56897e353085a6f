"""Files that count anew when they change, while the gateway runs: the configuration and the keys.

Files are compared by what is in them. Kubernetes swaps a link somewhere above them, editors write in place or
put another in place, and times and sizes may be those of before.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from gateway.config import Config, load
from gateway.errors import ConfigError

_Read = TypeVar("_Read")


class Watch(Generic[_Read]):
    """Looks at a file again and again. What is new in it is `taken`, or it is `refused` for its problems:
    each once, unless somebody asks.

    `read` gets whether somebody asks, and returns None where nothing is new; it runs in a thread. It raises
    ConfigError, as `taken` may.
    """

    def __init__(
        self,
        read: Callable[[bool], _Read | None],
        taken: Callable[[_Read], None],
        refused: Callable[[tuple[str, ...]], None],
        interval_s: float,
    ) -> None:
        self._read = read
        self._taken = taken
        self._refused = refused
        self._interval_s = interval_s
        self._asked = asyncio.Event()
        self._problems: tuple[str, ...] = ()

    def ask(self) -> None:
        """Have it read now, or once more when that is just being done."""
        self._asked.set()

    async def run(self) -> None:
        """For ever. Nothing is half taken when it is cancelled."""
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                read = await asyncio.to_thread(self._read, asked)
                if read is not None:
                    self._taken(read)
                    self._problems = ()
            except ConfigError as error:
                if asked or self._problems != tuple(error.problems):
                    self._problems = tuple(error.problems)
                    self._refused(self._problems)
            except Exception as error:  # A bug, after which the next look may do better.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a file that changes was not read", "exception": error}
                )
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._asked.wait()
            except TimeoutError:
                pass


class ConfigFile:
    """The configuration in a file, which may change."""

    def __init__(
        self, path: Path, environ: Mapping[str, str], check: Callable[[Config], None] = lambda _: None
    ) -> None:
        """`check` raises ConfigError for a new one that cannot run here."""
        self.path = path
        self._environ = environ
        self._check = check
        self._seen = b""
        self._last = b""

    def load(self) -> Config:
        """What it says. Raises ConfigError."""
        self._seen = self._last = self._digest()
        return load(self.path, self._environ)

    def load_if_changed(self, asked: bool) -> Config | None:
        """The same; None where it is as it was when it was read last, well or not, unless somebody has
        `asked`.

        A file that differs is read at the second look that finds it so: at the first it may be half written,
        and half a file can be a whole configuration of fewer models.
        """
        last, self._last = self._last, self._digest()
        if not asked and not self._last == last != self._seen:
            return None
        config = self.load()
        self._check(config)
        return config

    def _digest(self) -> bytes:
        try:
            return hashlib.sha256(self.path.read_bytes()).digest()
        except OSError:
            return b"?"  # which it is then refused for, if that lasts


def in_force(config: Config, before: Config) -> tuple[Config, tuple[str, ...]]:
    """What of a configuration can run in the place of the one of `before`, and the settings of it that
    cannot: those stay as they are until a restart.
    """
    if config.telemetry == before.telemetry:
        return config, ()
    return replace(config, telemetry=before.telemetry), ("gateway.telemetry",)

"""Servers behind a name in DNS: each of its addresses is one, and it is looked up again and again.

A look-up that fails, hangs or finds nothing changes nothing, for a resolver has outages of its own, and
servers that do not answer are known by their health. How long an answer holds is not known here:
`getaddrinfo`, which knows /etc/hosts and search domains as all else on the machine does, does not tell.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.core.events import AddressesFound, LookUpFailed, NameGone, Observer
from gateway.core.settings import Family, NameSettings

LookUp = Callable[[str, Family], Coroutine[Any, Any, Sequence[str]]]
"""Host and family → its addresses in numbers. Raises OSError or UnicodeError."""

_HANGS_S = 10.0
_FIRST_S = 1.0
"""Between look-ups, at most, as long as no address is known."""
_GAP_S = 0.5
"""The least between two, however many servers go down."""
_JITTER = 0.1
"""Gateways that were started together need not ask together."""


class Discovery:
    """Looks up names. `found` is told the addresses of each name when they are others than before."""

    def __init__(
        self,
        look_up: LookUp,
        found: Callable[[NameSettings, Sequence[str]], None],
        observe: Observer,
        rng: random.Random,
    ) -> None:
        self._look_up = look_up
        self._found = found
        self._observe = observe
        self._rng = rng
        self._refresh_s = 0.0
        self._hosts: dict[tuple[str, Family], _Host] = {}

    def want(self, names: Sequence[NameSettings], refresh_s: float) -> None:
        """Look these up from now on, each about every `refresh_s`, and no others."""
        self._refresh_s = refresh_s
        wanted: dict[tuple[str, Family], list[NameSettings]] = {}
        for name in names:
            wanted.setdefault((name.host, name.family), []).append(name)
        for key in self._hosts.keys() - wanted.keys():
            self._hosts.pop(key).task.cancel()
            self._observe(NameGone(_shown(*key)))
        for key, theirs in wanted.items():
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = _Host(*key)
                host.task = asyncio.get_running_loop().create_task(self._watch(host))
            for name in set(theirs) - set(host.names):
                if host.addresses:
                    self._found(name, host.addresses)
            host.names = theirs
            host.asked.set()

    def doubt(self, deployment: str) -> None:
        """The server of that name went down: it may be elsewhere by now."""
        for host in self._hosts.values():
            prefixes = {name.prefix(address) for name in host.names for address in host.addresses}
            if any(deployment.startswith(prefix) for prefix in prefixes):
                host.asked.set()

    def close(self) -> None:
        for host in self._hosts.values():
            host.task.cancel()

    async def _watch(self, host: "_Host") -> None:
        while True:
            host.asked.clear()
            await self._ask(host)
            await asyncio.sleep(min(_GAP_S, self._refresh_s))
            wait_s = self._refresh_s if host.addresses else min(_FIRST_S, self._refresh_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)):
                    await host.asked.wait()

    async def _ask(self, host: "_Host") -> None:
        asking = asyncio.get_running_loop().create_task(self._look_up(host.name, host.family))
        try:
            done, _ = await asyncio.wait((asking,), timeout=_HANGS_S)
            if not done:
                self._failed(host, f"no answer within {_HANGS_S:g} s")
                await asyncio.wait((asking,))
            self._take(host, tuple(sorted(asking.result())))
        except (OSError, UnicodeError) as error:
            self._failed(host, _words(error))
        except Exception as error:  # A bug, after which the next look may do better.
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"looking up {host.name} failed", "exception": error}
            )
        finally:
            asking.cancel()

    def _take(self, host: "_Host", addresses: tuple[str, ...]) -> None:
        if not addresses:
            self._failed(host, "it has no address")
            return
        before, failed = host.addresses, host.failed
        if addresses != before or failed:
            come = tuple(each for each in addresses if each not in before)
            gone = tuple(each for each in before if each not in addresses)
            self._observe(AddressesFound(_shown(host.name, host.family), len(addresses), come, gone))
        if addresses != before:
            for name in host.names:
                self._found(name, addresses)
        host.addresses, host.failed = addresses, False

    def _failed(self, host: "_Host", why: str) -> None:
        host.failed = True
        self._observe(LookUpFailed(_shown(host.name, host.family), len(host.addresses), why))


class _Host:
    __slots__ = ("addresses", "asked", "failed", "family", "name", "names", "task")

    task: asyncio.Task[None]

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family: Family = family
        self.names: list[NameSettings] = []
        self.addresses: tuple[str, ...] = ()
        self.asked = asyncio.Event()
        self.failed = False


def _shown(host: str, family: Family) -> str:
    return host if family == "any" else f"{host} ({family})"


def _words(error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name does not resolve"
    return type(error).__name__

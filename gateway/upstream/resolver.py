"""Where hosts are. A resolver that fails or hangs holds up nobody but those whose host was never found."""

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gateway.core.settings import Family

FRESH_S = 30.0
"""How long addresses are used without a doubt. Those in use are looked up again so often."""
_WAIT_S = 0.5
"""How long a look-up is waited for while older addresses are known..."""
_AGAIN_S = 5.0
"""...and for how long they are then used without another wait."""
_FAMILIES = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class Endpoint(NamedTuple):
    host: str
    port: int


class Address(NamedTuple):
    """Of a socket; the last two are IPv6's."""

    host: str
    port: int
    flow: int = 0
    scope: int = 0

    @property
    def numeric(self) -> str:
        return f"{self.host}%{self.scope}" if self.scope else self.host


Addresses = tuple[Address, ...]


async def look_up(host: str, family: Family) -> list[str]:
    """The addresses that a name has now, in numbers, each once; at least one. Raises OSError, or
    UnicodeError for a name that DNS cannot have.

    In a thread of its own, which may hang; whoever waits no longer leaves it behind.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str] | Exception] = loop.create_future()

    def answer(outcome: list[str] | Exception) -> None:
        if not found.done():
            found.set_result(outcome)

    def ask() -> None:
        outcome: list[str] | Exception
        try:
            infos = socket.getaddrinfo(host, 0, _FAMILIES[family], socket.SOCK_STREAM)
            addresses = sorted({address.numeric for address in _addresses(infos)})
            outcome = addresses or socket.gaierror(socket.EAI_NONAME, "no address")
        except Exception as error:
            outcome = error
        with contextlib.suppress(RuntimeError):  # the event loop may have ended meanwhile
            loop.call_soon_threadsafe(answer, outcome)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    outcome = await found
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _Known:
    __slots__ = ("addresses", "at", "timer")

    def __init__(self, addresses: Addresses, at: float, timer: asyncio.TimerHandle) -> None:
        self.addresses = addresses
        self.at = at
        self.timer = timer


class Resolver:
    """The addresses of places. `is_used` says whether one still is, and `on_change` hears of new addresses.

    Each look-up has a thread of its own, for it may hang; a place never has two.
    """

    def __init__(
        self, is_used: Callable[[Endpoint], bool], on_change: Callable[[Endpoint, Addresses], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_used = is_used
        self._on_change = on_change
        self._known: dict[Endpoint, _Known] = {}
        self._asked: dict[Endpoint, asyncio.Future[Addresses | Exception]] = {}

    async def addresses(self, place: Endpoint) -> Addresses:
        """At least one. Raises OSError, or UnicodeError for a name that DNS cannot have."""
        if found := _numeric(place):
            return found
        known = self._known.get(place)
        if known and self._loop.time() - known.at < FRESH_S:
            return known.addresses
        asked = asyncio.shield(self._ask(place))
        answer: Addresses | Exception = TimeoutError()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S if known else None):
                answer = await asked
        if not isinstance(answer, Exception):
            return answer
        if known is None:
            raise answer
        known.at = self._loop.time() - FRESH_S + _AGAIN_S
        return known.addresses

    def doubt(self, place: Endpoint) -> None:
        """There was no connection: look the place up again before the next."""
        if known := self._known.get(place):
            known.at = -math.inf

    def close(self) -> None:
        for known in self._known.values():
            known.timer.cancel()

    def _ask(self, place: Endpoint) -> "asyncio.Future[Addresses | Exception]":
        asked = self._asked.get(place)
        if asked is None:
            asked = self._asked[place] = self._loop.create_future()
            threading.Thread(target=self._look_up, args=(place,), name="look-up", daemon=True).start()
        return asked

    def _look_up(self, place: Endpoint) -> None:
        """In a thread."""
        found: Addresses | Exception
        try:
            infos = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            found = _addresses(infos) or socket.gaierror(socket.EAI_NONAME, "no address")
        except Exception as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the event loop may have ended meanwhile
            self._loop.call_soon_threadsafe(self._on_found, place, found)

    def _on_found(self, place: Endpoint, found: Addresses | Exception) -> None:
        known = self._known.get(place)
        if not isinstance(found, Exception):
            timer = self._loop.call_later(FRESH_S, self._refresh, place)
            self._known[place] = _Known(found, self._loop.time(), timer)
            if known:
                known.timer.cancel()
                if known.addresses != found:
                    self._on_change(place, found)
        elif known:
            known.timer.cancel()
            known.timer = self._loop.call_later(FRESH_S, self._refresh, place)
        asked = self._asked.pop(place)
        if not asked.done():
            asked.set_result(found)

    def _refresh(self, place: Endpoint) -> None:
        if self._is_used(place):
            self._ask(place)


def _numeric(place: Endpoint) -> Addresses:
    """The address that a host is by itself; empty for a name."""
    try:
        return _addresses(
            socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        )
    except (OSError, UnicodeError):
        return ()


def _addresses(infos: Sequence[tuple[Any, ...]]) -> Addresses:
    return tuple(Address(*info[4]) for info in infos)

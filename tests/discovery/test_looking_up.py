"""When names are looked up, and what is made of it."""

import asyncio
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway.core.events import AddressesFound, Event, LookUpFailed, NameGone
from gateway.core.settings import DeploymentSettings, Family, NameSettings
from gateway.discovery import Discovery
from tests.fakes.time import fake_time

A, B, C = "10.0.0.1", "10.0.0.2", "fd00::3"


def name(host: str = "a", model: str = "m", path: str = "", family: Family = "any") -> NameSettings:
    return NameSettings(host, 7997, DeploymentSettings("", f"http://{host}:7997{path}", model), path, family)


class Names:
    """A look-up that says what it is told to, and remembers when it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.answer: Sequence[str] | Exception | None = addresses
        """None: it does not answer, before `answers` is set."""
        self.answers = asyncio.Event()
        self.asked: list[float] = []
        self.found: list[tuple[NameSettings, Sequence[str]]] = []
        self.events: list[Event] = []

    async def look_up(self, host: str, family: Family) -> Sequence[str]:
        self.asked.append(asyncio.get_running_loop().time())
        if self.answer is None:
            await self.answers.wait()
        assert self.answer is not None
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextmanager
def discovering(names: Names, *wanted: NameSettings, refresh_s: float = 5.0) -> Iterator[Discovery]:
    def found(name: NameSettings, addresses: Sequence[str]) -> None:
        names.found.append((name, addresses))

    discovery = Discovery(names.look_up, found, names.events.append, random.Random(1))
    discovery.want(wanted, refresh_s)
    try:
        yield discovery
    finally:
        discovery.close()


@fake_time
async def test_it_is_looked_up_again_and_again() -> None:
    """About as often as was said, and only what is new is told."""
    names = Names(A)
    with discovering(names, name()):
        await asyncio.sleep(100)
        names.answer = (B, A)
        await asyncio.sleep(6.1)
        names.answer = (A, B)
        await asyncio.sleep(20)

    gaps = [later - sooner for sooner, later in zip(names.asked, names.asked[1:], strict=False)]
    assert all(5 * 0.9 <= gap <= 5 * 1.1 + 0.5 for gap in gaps)
    assert len(set(gaps)) > 5
    assert names.found == [(name(), (A,)), (name(), (A, B))]
    assert names.events == [AddressesFound("a", 1, (A,), ()), AddressesFound("a", 2, (B,), ())]


@fake_time
async def test_what_finds_nothing_changes_nothing() -> None:
    """Neither an error, nor no address, nor silence; each is told, and so is the end of it."""
    names = Names(A)
    with discovering(names, name()):
        await asyncio.sleep(1)
        for answer in (socket.gaierror(), (), UnicodeError(), OSError()):
            names.answer = answer
            await asyncio.sleep(6.1)
        names.answer = None
        await asyncio.sleep(20)
        names.answer = (A,)
        names.answers.set()
        await asyncio.sleep(6.1)

    assert names.found == [(name(), (A,))]
    failed = [event.why for event in names.events if isinstance(event, LookUpFailed)]
    assert set(failed) == {
        "the name does not resolve",
        "it has no address",
        "OSError",
        "no answer within 10 s",
    }
    assert names.events[-1] == AddressesFound("a", 1, (), ())


@fake_time
async def test_a_look_up_that_hangs_is_not_doubled() -> None:
    names = Names()
    names.answer = None
    with discovering(names, name()) as discovery:
        await asyncio.sleep(60)
        discovery.doubt(f"{A}:7997")

    assert names.asked == [0]


@fake_time
async def test_a_server_that_goes_down_has_its_name_looked_up_at_once() -> None:
    """Its own, and not again and again, however many go down."""
    names, other = Names(A, C), Names(B)
    with discovering(names, name(path="/x")) as discovery, discovering(other, name()):
        await asyncio.sleep(1)
        for _ in range(100):
            discovery.doubt(f"[{C}]:7997/x")
            discovery.doubt(f"{B}:7997/x")
        await asyncio.sleep(0.4)

    assert names.asked == [0, 1]
    assert other.asked == [0]


@fake_time
async def test_an_unknown_name_is_looked_for_sooner() -> None:
    names = Names()
    names.answer = OSError()
    with discovering(names, name(), refresh_s=60):
        await asyncio.sleep(5)
        names.answer = (A,)
        await asyncio.sleep(2)

    assert names.found == [(name(), (A,))]


@fake_time
async def test_one_look_up_serves_all_who_want_the_name() -> None:
    """Who comes later is told at once, and what nobody wants is not looked up any more."""
    names, more = Names(A), name(model="other")
    with discovering(names, name()) as discovery:
        await asyncio.sleep(1)
        discovery.want([name(), more], 600)
        assert names.found == [(name(), (A,)), (more, (A,))]
        await asyncio.sleep(1)
        discovery.want([], 600)
        asked = len(names.asked)
        await asyncio.sleep(1000)

    assert len(names.asked) == asked
    assert names.events[-1] == NameGone("a")


@fake_time
async def test_a_bug_ends_nothing() -> None:
    names, shown = Names(A), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))
    names.answer = bug = ZeroDivisionError()
    with discovering(names, name()):
        await asyncio.sleep(3)
        names.answer = (A,)
        await asyncio.sleep(3)

    assert shown[0] is bug
    assert names.found == [(name(), (A,))]

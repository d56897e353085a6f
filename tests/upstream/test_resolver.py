"""Names and addresses: a resolver that fails or hangs holds up only those whose host was never found."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.retry import Failure
from gateway.upstream import resolver
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.upstream.peer import peer, until
from tests.upstream.requests import TIMEOUT_S, deployment, failure_of, sent, texts


class Dns:
    """What each name means, from one look-up to the next; a name that hangs does so until the end."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.hanging: set[str] = set()
        self.asked: list[str] = []
        self.released = threading.Event()

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        self.asked.append(host)
        if host in self.hanging:
            self.released.wait(20)
        if host not in self.places:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", self.places[host])]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dns]:
    dns, real = Dns(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **options: Any) -> Any:
        is_name = options.get("flags") != socket.AI_NUMERICHOST and host.endswith(".test")
        return dns.getaddrinfo(host, port) if is_name else real(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield dns
    dns.released.set()


def place_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


async def call(upstream: InfinityUpstream, host: str = "a.test") -> None:
    await sent(upstream, deployment(f"http://{host}:7997"), texts("one"))


async def test_a_name_is_looked_up_once(upstream: InfinityUpstream, dns: Dns) -> None:
    """For all connections of some seconds, those that are made at once too."""
    async with FakeInfinity() as fake:
        dns.places["a.test"] = place_of(fake.url)
        await asyncio.gather(*(call(upstream) for _ in range(5)))
        assert await upstream.models(deployment("http://a.test:7997"), TIMEOUT_S)

    assert dns.asked == ["a.test"]


@pytest.mark.proves("DNS stops answering", caller="nothing: the addresses of before are used")
@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_known_addresses_outlive_the_resolver(
    upstream: InfinityUpstream, dns: Dns, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Each call over a new connection, long after the addresses were found."""
    monkeypatch.setattr(resolver, "FRESH_S", 0.0)
    monkeypatch.setattr(resolver, "_WAIT_S", 0.05)
    async with peer(hangs_up=True) as served:
        dns.places["a.test"] = place_of(served.url)
        await call(upstream)
        if how == "hangs":
            dns.hanging.add("a.test")
        else:
            del dns.places["a.test"]
        for _ in range(3):
            async with asyncio.timeout(2):
                await call(upstream)

    assert served.connections == 4
    assert len(dns.asked) > 1


async def test_a_name_that_hangs_holds_up_no_other(upstream: InfinityUpstream, dns: Dns) -> None:
    """However many hang: each has a thread of its own."""
    async with peer() as served:
        hanging = [f"{i}.test" for i in range(40)]
        dns.hanging.update(hanging)
        dns.places["a.test"] = place_of(served.url)
        waiting = [
            asyncio.create_task(failure_of(upstream, deployment(f"http://{name}:7997"), timeout_s=1.0))
            for name in hanging
        ]
        await until(lambda: len(dns.asked) == len(hanging))
        async with asyncio.timeout(0.5):
            await call(upstream)
        failures = {error.failure for error in await asyncio.gather(*waiting)}

    assert failures == {Failure.TIMEOUT}


async def test_a_name_that_hangs_is_asked_for_once(upstream: InfinityUpstream, dns: Dns) -> None:
    """Calls that come meanwhile wait for the same answer."""
    async with peer() as served:
        dns.hanging.add("a.test")
        for _ in range(3):
            error = await failure_of(upstream, deployment("http://a.test:7997"), timeout_s=0.05)
            assert error.failure is Failure.TIMEOUT
        dns.places["a.test"] = place_of(served.url)
        dns.released.set()
        await call(upstream)

    assert dns.asked == ["a.test"]


async def test_connections_move_with_the_address(
    upstream: InfinityUpstream, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept ones to the old address are closed, although the server there still answers."""
    monkeypatch.setattr(resolver, "FRESH_S", 0.05)
    async with peer() as old, peer(host="127.0.0.2") as new:
        dns.places["a.test"] = place_of(old.url)
        await call(upstream)
        assert (old.open, len(old.requests)) == (1, 1)
        dns.places["a.test"] = ("127.0.0.2", place_of(new.url)[1])
        await until(lambda: old.open == 0)
        await call(upstream)

    assert (len(old.requests), len(new.requests)) == (1, 1)


async def test_a_call_under_way_ends_where_it_began(
    upstream: InfinityUpstream, dns: Dns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its connection is not kept."""
    monkeypatch.setattr(resolver, "FRESH_S", 0.05)
    gate = asyncio.Event()
    async with FakeInfinity() as fake, peer(host="127.0.0.2") as new:
        fake.faults.append(Fault(delay=gate))
        dns.places["a.test"] = place_of(fake.url)
        begun = asyncio.create_task(call(upstream))
        await fake.received(1)
        dns.places["a.test"] = ("127.0.0.2", place_of(new.url)[1])
        asked = len(dns.asked)
        await until(lambda: len(dns.asked) > asked + 1)
        gate.set()
        await begun
        await call(upstream)

    assert len(fake.batches) == 1
    assert len(new.requests) == 1


async def test_a_refused_connection_has_the_name_looked_up_again(
    upstream: InfinityUpstream, dns: Dns
) -> None:
    """A server that comes back elsewhere is found at once, not when its old address is forgotten."""
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        dns.places["a.test"] = refusing.getsockname()
        assert (await failure_of(upstream, deployment("http://a.test:7997"))).failure is Failure.REFUSED
        async with peer() as served:
            dns.places["a.test"] = place_of(served.url)
            await call(upstream)

    assert len(dns.asked) == 2


async def test_an_address_is_not_looked_up(upstream: InfinityUpstream, dns: Dns) -> None:
    """So it works while the resolver does not."""
    async with peer() as served:
        await sent(upstream, deployment(served.url), texts("one"))

    assert dns.asked == []

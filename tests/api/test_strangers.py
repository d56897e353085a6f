"""Without a key, pages of other sites in a browser on this machine get nothing, whatever they try."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.api.protocol import Protocol
from gateway.core.settings import Secret
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pools_of
from tests.api.test_closed_routes import ROUTES
from tests.api.ways import by_asgi, through
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

BODY = b'{"model": "bert", "input": "one"}'
FOREIGN = (
    *("rebound.example", "rebound.example:4000", "localhost.example", "127.0.0.1.example:80", "localhos"),
    *("192.168.0.7:4000", "0.0.0.0", "[::2]", "[fe80::1]:4000", "8.8.8.8", "localhost@rebound.example"),
    *("example.com:localhost", "2130706433", "127.1", "\u00e9"),
)
OWN = (
    *("localhost", "LOCALHOST:4000", "localhost.:80", "a.localhost:1", "127.0.0.1", "127.8.9.10:65535"),
    *("[::1]", "[::1]:4000", "[0:0:0:0:0:0:0:1]:1"),
)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[Protocol, by_asgi], ids=["direct", "ordinary"]
)
async def gateway(request: Any, shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    with through(request.param):
        async with GatewayInProcess(config(*pools_of(shared_fake))) as gateway:
            yield gateway


async def answer(gateway: GatewayInProcess, method: str, path: str, *fields: str) -> bytes:
    lines = (
        f"{method} {path} HTTP/1.1",
        *fields,
        "Connection: close",
        f"Content-Length: {len(BODY)}",
        "",
        "",
    )
    return await raw_exchange(gateway.port, "\r\n".join(lines).encode("latin-1") + BODY)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer[9:12])


@pytest.mark.proves(
    "a page of another site has its own name lead to loopback (DNS rebinding), where no key is set",
    caller="421 on every route, health and metrics too",
    kind="attack",
)
async def test_a_name_that_is_not_this_machines_is_not_served(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity
) -> None:
    before = (await caller.samples()).value("rejected_total", reason="foreign_host")
    for path, methods in ROUTES.items():
        for method in methods:
            said = await answer(gateway, method, path, "Host: rebound.example")
            assert status(said) == 421
            assert b"allow_anonymous" in said
            assert b"bert" not in said
    samples = await caller.samples()

    assert fake.asked == []
    assert samples.value("rejected_total", reason="foreign_host") >= before + len(ROUTES)


@pytest.mark.proves(
    "a page of another site posts to the gateway, where no key is set",
    caller="403 on every route",
    kind="attack",
)
@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "null", "", "http://localhost:1", "http://localhost.example"]
)
async def test_a_page_of_another_site_is_not_served(
    gateway: GatewayInProcess, fake: FakeInfinity, origin: str
) -> None:
    """One of another port is another site's, since anybody's program may serve it."""
    for path, methods in ROUTES.items():
        for method in methods:
            said = await answer(gateway, method, path, f"Host: localhost:{gateway.port}", f"Origin: {origin}")
            assert status(said) == 403, path

    assert fake.asked == []


@pytest.mark.parametrize("host", FOREIGN)
async def test_hosts_that_are_others(gateway: GatewayInProcess, fake: FakeInfinity, host: str) -> None:
    assert status(await answer(gateway, "POST", "/v1/embeddings", f"Host: {host}")) == 421


@pytest.mark.parametrize("host", OWN)
async def test_hosts_that_are_this_machine(gateway: GatewayInProcess, fake: FakeInfinity, host: str) -> None:
    """Tunnels and forwarded ports keep the name and change the port. A page served from here may call."""
    fields = (f"Host: {host}", f"Origin: http://{host.lower()}")

    assert status(await answer(gateway, "POST", "/v1/embeddings", fields[0])) == 200
    assert status(await answer(gateway, "POST", "/v1/embeddings", *fields)) == 200


async def test_programs_may_leave_out_the_host(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """No browser does."""
    assert status(await answer(gateway, "POST", "/v1/embeddings")) == 200
    assert status(await raw_exchange(gateway.port, b"GET /health HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    "meant", [{"allow_anonymous": True}, {"master_key": Secret("sk-key")}], ids=["anonymous", "a key"]
)
async def test_who_is_meant_to_be_reached_is_reached_by_any_name(
    shared_fake: FakeInfinity, meant: dict[str, Any]
) -> None:
    """Behind an ingress, callers say its name."""
    fields = ("Host: gateway.example", "Origin: https://app.example", "Authorization: Bearer sk-key")
    async with GatewayInProcess(config(*pools_of(shared_fake), **meant)) as gateway:
        for method, path in (("POST", "/v1/embeddings"), ("GET", "/health"), ("GET", "/v1/models")):
            assert status(await answer(gateway, method, path, *fields)) == 200

"""Every route is closed to who has no key, however it is spelled and whatever headers say."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from starlette.routing import Route

from gateway.api.app import call_endpoints, create_app
from gateway.api.drain import Drain
from gateway.api.protocol import Protocol
from gateway.bootstrap import Runtime
from gateway.core.settings import RouterSettings, Secret
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, named_key, pool
from tests.api.ways import by_asgi, through
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

KEY, SOME = "sk-master", "sk-some"
BODY = b'{"model": "bert", "input": ["one"], "query": "q", "documents": ["a"], "texts": ["a"]}'
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
HEALTH = {
    *("/health", "/health/liveliness", "/health/liveness", "/health/readiness"),
    *("/infinity/health", "/infinity/v1/health"),
}
OPEN = HEALTH | {"/"}
"""The page at / is the same for everybody: tests/page/test_document.py."""
CLAIMS = (
    b"X-Original-URL: /health",
    b"X-Rewrite-URL: /health",
    b"X-Forwarded-Uri: /health",
    b"X-Forwarded-Prefix: /health",
    b"X-Forwarded-For: 127.0.0.1",
    b"X-Real-IP: 127.0.0.1",
    b"X-Forwarded-Host: localhost",
    b"Forwarded: for=127.0.0.1;host=localhost",
    b"X-HTTP-Method-Override: OPTIONS",
    b"X-Api-Key: sk-master",
    b"Proxy-Authorization: Bearer sk-master",
    b"Cookie: api-key=sk-master",
    b"Authorization: Bearer",
    b"Authorization: Bearer null",
    b"Authorization: Bearer sk-master\x00",
    b"api-key:",
)


def routes() -> dict[str, frozenset[str]]:
    """The methods of every path."""
    runtime = Runtime(config())
    app = create_app(runtime, Drain(), call_endpoints(runtime))
    assert len(app.routes) > 30
    assert all(
        isinstance(route, Route) for route in app.routes
    )  # nothing is mounted that has routes of its own
    return {
        route.path.replace("{model:path}", "alias"): frozenset(route.methods or ())
        for route in app.routes
        if isinstance(route, Route)
    }


ROUTES = routes()


def spellings(path: str) -> list[str]:
    """Ways to write a path that some server, somewhere, takes for it."""
    first, rest = path[1], path[2:]
    return [
        path,
        f"/{path}",
        f"{path}/",
        f"{path}?key=sk-master&api-key=sk-master",
        f"/%{ord(first):02x}{rest}",
        f"/%25{ord(first):02x}{rest}",
        f"{path};a=b",
        f"{path}%3b",
        f"{path}%00",
        f"{path}/.",
        f"{path}%2e",
        f"/.{path}",
        f"/%2e{path}",
        f"/health/..{path}",
        f"/health/%2e%2e{path}",
        f"/health/..%2f{path[1:]}",
        f"/health;{path}",
        f"{path}/../health",
        f"{path}#/health",
        path.upper(),
        path.replace("/", "\\"),
        path.replace("/", "%2f"),
        f"http://gateway{path}",
        f"http://gateway/{path}",
        f"https://sk-master@gateway{path}",
    ]


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[Protocol, by_asgi], ids=["direct", "asgi"]
)
async def gateway(
    shared_fake: FakeInfinity, request: pytest.FixtureRequest
) -> AsyncIterator[GatewayInProcess]:
    """One that opens nothing, which speaks both ways in turn."""
    settings = config(
        pool("bert", shared_fake),
        pool("cross", shared_fake),
        master_key=Secret(KEY),
        keys=(named_key("some", SOME, models=("bert",)),),
        router=RouterSettings(aliases={"alias": "bert"}),
        open_routes=frozenset(),
    )
    with through(request.param):
        async with GatewayInProcess(settings) as gateway:
            yield gateway


def request(method: str, target: str, *fields: bytes) -> bytes:
    lines = (
        b"%b %b HTTP/1.1" % (method.encode(), target.encode()),
        b"Host: gateway",
        b"Origin: https://elsewhere.example",
        b"Access-Control-Request-Method: POST",
        b"Connection: close",
        b"Content-Length: %d" % len(BODY),
        *fields,
    )
    return b"\r\n".join((*lines, b"", BODY))


async def status_of(gateway: GatewayInProcess, sent: bytes) -> tuple[int, bytes]:
    answer = await raw_exchange(gateway.port, sent)
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, (sent, answer)
    return int(found[1]), answer


def learned(answer: bytes) -> bool:
    """Whether it tells of models or servers."""
    return any(word in answer for word in (b"bert", b"cross", b"127.0.0.1", b"access-control"))


@pytest.mark.proves(
    "a caller without a key tries every route, all methods, odd spellings, headers that claim another path",
    caller="401, 404 or 405, and nothing about models or servers; only health answers",
    kind="attack",
)
@pytest.mark.parametrize("path", sorted(ROUTES.keys() - OPEN))
async def test_no_spelling_of_a_route_is_open(
    gateway: GatewayInProcess, fake: FakeInfinity, path: str
) -> None:
    """What is decided is decided on the route that serves it."""
    for target in spellings(path):
        asked = [await status_of(gateway, request(method, target)) for method in METHODS]
        for method, (status, answer) in zip(METHODS, asked, strict=True):
            assert status in (400, 401, 404, 405), (method, target, answer)
            said = answer.replace(target.encode(), b"").replace(path.encode(), b"")
            assert not learned(said), (method, target, answer)
    assert fake.asked == []


@pytest.mark.parametrize("path", sorted(ROUTES.keys() - OPEN))
async def test_a_route_asks_for_the_key_whatever_headers_claim(
    gateway: GatewayInProcess, fake: FakeInfinity, path: str
) -> None:
    """With any of its methods; and it is the key that opens it."""
    for method in ROUTES[path]:
        for fields in ((), *((claim,) for claim in CLAIMS)):
            status, answer = await status_of(gateway, request(method, path, *fields))
            # A null in a header is no HTTP.
            assert status == (400 if b"\x00" in b"".join(fields) else 401), (method, fields, answer)
        assert fake.asked == []

        status, answer = await status_of(
            gateway, request(method, path, b"Authorization: Bearer " + KEY.encode())
        )
        assert status not in (401, 403, 404, 405), (method, answer)
        fake.requests.clear()


WRONG = (
    *(
        b"Bearer " + key
        for key in (b"sk-maste", b"sk-masterx", b"SK-MASTER", b"sk-other", b"some", b"x" * 4000)
    ),
    *(
        b"Bearer " + digest.hexdigest().encode()
        for digest in map(hashlib.sha256, (KEY.encode(), SOME.encode()))
    ),
    b"Basic " + base64.b64encode(b"some:sk-master"),
    b"sk-master",
    b"Bearer sk-master, Bearer sk-master",
    b"Bearer sk-master sk-some",
    b'Bearer "sk-master"',
)


def carrying(wrong: bytes) -> list[tuple[bytes, ...]]:
    """In both headers. A right one beside it counts only where `Authorization` has another scheme."""
    first, scheme = b"Authorization: " + wrong, b"Bearer "
    if not wrong.startswith(scheme):
        return [(first,)]
    other = b"api-key: " + wrong.removeprefix(scheme)
    return [(first,), (other,), (first, b"api-key: " + KEY.encode())]


@pytest.mark.proves(
    "a key that is nearly right, a key's name or digest, or the right key in another scheme, on every route",
    caller="401, which repeats nothing of it, and nothing about models or servers",
    kind="attack",
)
@pytest.mark.parametrize("path", sorted(ROUTES.keys() - OPEN))
async def test_a_wrong_key_opens_no_route(gateway: GatewayInProcess, fake: FakeInfinity, path: str) -> None:
    """With any of its methods."""
    for method in ROUTES[path]:
        for wrong in WRONG:
            for fields in carrying(wrong):
                status, answer = await status_of(gateway, request(method, path, *fields))
                said = answer.replace(path.encode(), b"")
                assert status == 401, (method, fields, answer)
                assert not learned(said), (method, fields, answer)
                assert wrong.removeprefix(b"Bearer ") not in said
    assert fake.asked == []


@pytest.mark.parametrize("path", sorted(HEALTH))
async def test_health_is_open_and_tells_nothing(gateway: GatewayInProcess, path: str) -> None:
    """Kubernetes has no key, and neither has anybody else who asks."""
    status, answer = await status_of(gateway, request("GET", path))

    assert status == 200
    assert not learned(answer)


async def test_what_is_not_here_is_told_to_all_alike(caller: Caller) -> None:
    """404 and 405 depend on the routes alone, which are the same everywhere."""
    for method, path in (("POST", "/nothing"), ("GET", "/v1/embeddings"), ("GET", "/infinity/nothing")):
        with_key = await caller.send(method, path, Authorization=f"Bearer {KEY}")
        without = await caller.send(method, path)
        assert with_key.status == without.status in (404, 405)
        assert with_key.raw == without.raw


async def test_pages_of_all_models_are_not_for_a_key_of_some(caller: Caller) -> None:
    """They name the others, and addresses."""
    for path in ("/status", "/metrics"):
        reply = await caller.get(path, Authorization=f"Bearer {SOME}")
        assert "this key is for some models" in reply.error(403)
    for path in ("/docs", "/openapi.json", "/v1/models"):
        assert (await caller.get(path, Authorization=f"Bearer {SOME}")).status == 200


@pytest.mark.parametrize(
    ("open_routes", "expected"),
    [
        (None, {"/metrics", "/docs", "/openapi.json"}),
        ({"status"}, {"/status"}),
        ({"metrics"}, {"/metrics"}),
        ({"docs", "metrics", "status"}, {"/metrics", "/docs", "/openapi.json", "/status"}),
    ],
)
async def test_what_a_setting_opens(open_routes: set[str] | None, expected: set[str]) -> None:
    """Those pages, and nothing else."""
    options = {} if open_routes is None else {"open_routes": frozenset(open_routes)}
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake), master_key=Secret(KEY), **options)) as gateway,
        Caller(gateway.url) as caller,
    ):
        pages = [path for path, methods in ROUTES.items() if "GET" in methods and path not in OPEN]
        replies = await asyncio.gather(*(caller.get(path) for path in pages))

    assert {path for path, reply in zip(pages, replies, strict=True) if reply.status == 200} == expected
    assert {reply.status for reply in replies} == {200, 401}


@pytest.mark.proves(
    "a page of another site has a browser call", caller="no CORS header, and 405", kind="attack"
)
async def test_no_other_site_may_read_answers(gateway: GatewayInProcess) -> None:
    """With the key neither: no answer carries leave to browsers, and there is no preflight."""
    for path, methods in ROUTES.items():
        bearer = b"Authorization: Bearer " + KEY.encode()
        preflight, said = await status_of(gateway, request("OPTIONS", path, bearer))
        assert preflight == 405
        assert b"access-control" not in said.lower()
        for method in methods:
            _, said = await status_of(gateway, request(method, path, bearer))
            assert b"access-control" not in said.partition(b"\r\n\r\n")[0].lower()

"""Who may call."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.core.settings import Secret
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pool
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

KEY = "sk-a-key-with-ümlaut"
RIGHT = f"Bearer {KEY}"
CALLS = [
    ("POST", "/embeddings"),
    ("POST", "/v1/embeddings"),
    ("POST", "/rerank"),
    ("POST", "/v1/rerank"),
    ("POST", "/classify"),
    ("POST", "/v1/classify"),
    ("GET", "/models"),
    ("GET", "/v1/models"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One with a key."""
    async with GatewayInProcess(config(pool("bert", shared_fake), master_key=Secret(KEY))) as gateway:
        yield gateway


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_a_call_without_a_key_is_refused(
    caller: Caller, fake: FakeInfinity, method: str, path: str
) -> None:
    """With the words that say how one is sent, and nothing about the models."""
    reply = await caller.send(method, path, b"{}")

    message = reply.error(401)
    assert "Authorization: Bearer" in message
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.body["error"]["type"] == "authentication_error"
    assert fake.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": ""},
        {"api_key": "wrong"},
        {"api_key": ""},
        {"api_key": f"Bearer {KEY}"},
        {"Cookie": f"key={KEY}"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/embeddings"), ("GET", "/v1/models")])
async def test_another_key_is_refused(
    caller: Caller, fake: FakeInfinity, method: str, path: str, headers: dict[str, str]
) -> None:
    """Whole and exact; and neither the right one nor the wrong one is shown."""
    reply = await caller.send(method, path, b'{"model": "bert", "input": "one"}', **headers)

    message = reply.error(401)
    assert "wrong" not in message
    assert KEY not in message
    assert fake.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": RIGHT},
        {"Authorization": f"bearer {KEY}"},
        {"Authorization": f"BEARER  {KEY} "},
        {"api_key": KEY},
        {"API_KEY": KEY},
        {"Authorization": "Basic dXNlcjpwYXNz", "api_key": KEY},
    ],
    ids=str,
)
async def test_the_key_is_taken_as_bearer_and_as_api_key(
    caller: Caller, fake: FakeInfinity, headers: dict[str, str]
) -> None:
    """As OpenAI's clients send it and as Azure's do; an ingress may have an Authorization of its own."""
    reply = await caller.send("POST", "/v1/embeddings", b'{"model": "bert", "input": "one"}', **headers)
    models = await caller.get("/v1/models", **headers)

    assert (reply.status, models.status) == (200, 200)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/classify"])
async def test_the_key_is_asked_for_before_anything_else(
    caller: Caller, fake: FakeInfinity, path: str
) -> None:
    """Who has none learns nothing from errors about models or fields, and sends no body for nothing."""
    for bad in (b"{", b'{"model": "nobody", "input": []}', b" " * 100_000):
        assert (await caller.post(path, bad)).status == 401


async def test_a_caller_without_a_key_need_not_send_a_body(gateway: GatewayInProcess) -> None:
    """The refusal comes before the body, which is not read."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\n"

    answer = await raw_exchange(gateway.port, head, until_closed=False)

    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/health", "/health/liveliness", "/health/liveness", "/health/readiness"])
async def test_health_is_open(caller: Caller, path: str) -> None:
    """Kubernetes has no key."""
    assert (await caller.get(path)).status == 200


async def test_refusals_are_counted(caller: Caller, fake: FakeInfinity) -> None:
    """Somebody who tries keys shows."""
    before = await caller.samples()
    for _ in range(3):
        await caller.post("/v1/embeddings", b"{}", Authorization="Bearer wrong")
    after = await caller.samples()

    for name, labels in (
        ("requests_total", {"route": "/v1/embeddings", "model": "", "status": 401}),
        ("rejected_total", {"reason": "unauthorized"}),
    ):
        assert after.value(name, **labels) - before.value(name, **labels) == 3


async def test_without_a_key_everybody_is_let_in() -> None:
    """Clients insist on sending one, so any will do."""
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(pool("bert", fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        replies = [await caller.embed("one")] + [
            await caller.post("/embeddings", {"model": "bert", "input": "one"}, Authorization=authorization)
            for authorization in ("", "Bearer anything", "Basic x", "nonsense")
        ]

    assert {reply.status for reply in replies} == {200}


async def test_the_callers_key_is_not_handed_to_the_servers(caller: Caller, fake: FakeInfinity) -> None:
    """The servers' key is another."""
    await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, Authorization=RIGHT)

    assert len(fake.posts) == 1
    assert KEY not in str(fake.posts[0].headers)

"""Every route that takes calls has the same limits, and no body chooses what is fetched."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.api.parsing import check_parts, is_medium
from gateway.core.settings import LimitsSettings
from gateway.errors import BadRequest
from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED, config, pools_of
from tests.api.media import orange
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

ITEMS, CHARS, DEPTH = 10, 500, 20
HOSTS = ("images.example", "*.cdn.example", "odd.example:8443")

RERANKED = {"model": "cross", "query": "q"}
ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/embeddings": ({"model": "bert"}, "input"),
    "/embeddings": ({"model": "bert"}, "input"),
    "/engines/bert/embeddings": ({}, "input"),
    "/openai/deployments/bert/embeddings": ({}, "input"),
    "/v1/rerank": (RERANKED, "documents"),
    "/rerank": (RERANKED, "documents"),
    "/rerank?voyage": (RERANKED | {"top_k": 1}, "documents"),
    "/rerank?tei": (RERANKED, "texts"),
    "/v2/rerank": (RERANKED, "documents"),
    "/v1/embed": ({"model": "bert"}, "texts"),
    "/v2/embed": ({"model": "bert"}, "texts"),
    "/embed": ({"model": "bert"}, "inputs"),
    "/v1/classify": ({"model": "classifier"}, "input"),
    "/classify": ({"model": "classifier"}, "input"),
    **{
        base + path: (fields, name)
        for base in ("/infinity", "/infinity/v1")
        for path, fields, name in (
            ("/embeddings", {"model": "bert"}, "input"),
            ("/rerank", RERANKED, "documents"),
            ("/classify", {"model": "classifier"}, "input"),
        )
    },
}
MEDIA = ["/infinity/embeddings_image", "/infinity/v1/embeddings_audio"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    limits = LimitsSettings(
        items_max=ITEMS,
        text_chars_max=CHARS,
        json_depth_max=DEPTH,
        body_bytes_max=2_000_000,
        media_hosts=HOSTS,
    )
    async with GatewayInProcess(config(*pools_of(shared_fake), limits=limits)) as gateway:
        yield gateway


def body_of(path: str, items: Any, **more: Any) -> dict[str, Any]:
    fields, name = ROUTES[path]
    return {**fields, name: items, **more}


def message(reply: Reply, path: str) -> str:
    """Of a refusal: 400, or below /infinity 400 or 422."""
    assert reply.status in ((400, 422) if path.startswith("/infinity") else (400,)), reply.raw
    return reply.raw.decode()


async def test_the_table_knows_every_route(gateway: GatewayInProcess, caller: Caller) -> None:
    spec = (await caller.get("/openapi.json")).body["paths"]
    known = {path.partition("?")[0].replace("/bert/", "/{model}/") for path in ROUTES}
    posts = {
        path
        for path, methods in spec.items()
        if "post" in methods and not path.endswith(("_image", "_audio"))
    }

    assert posts <= known


@pytest.mark.parametrize("path", ROUTES)
async def test_a_good_call(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """At the limits; otherwise those below would prove nothing."""
    assert (await caller.post(path, body_of(path, ["x" * CHARS] * ITEMS))).status == 200


@pytest.mark.proves(
    "a body with too many or too long texts, or nested too deeply, on any route",
    caller="400 (below /infinity 422 in its words), which names the limit",
    kind="attack",
)
@pytest.mark.parametrize("path", ROUTES)
async def test_too_much_is_refused(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """Items, and characters of one."""
    many = await caller.post(path, body_of(path, ["x"] * (ITEMS + 1)))
    long = await caller.post(path, body_of(path, ["x" * (CHARS + 1)]))

    assert f"at most {ITEMS}" in message(many, path)
    assert f"at most {CHARS}" in message(long, path)
    assert fake.asked == []


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("path", [*ROUTES, *MEDIA])
@pytest.mark.parametrize("depth", [DEPTH, 300, 1030, 200_000])
@pytest.mark.parametrize("known", [True, False], ids=["a known field", "an unknown one"])
async def test_a_body_nested_too_deeply_is_refused(
    caller: Caller, fake: FakeInfinity, path: str, depth: int, known: bool
) -> None:
    """In words, wherever it is nested; never by exhaustion."""
    name = ROUTES.get(path, ({}, "input"))[1] if known else "more"
    body = b'{"model": "bert", "query": "q", "%b": %b}' % (name.encode(), nested(depth))

    assert "nested" in message(await caller.post(path, body), path) or depth > 1000
    assert fake.asked == []


@pytest.mark.proves(
    "a large body of millions of tiny values, which would take thirty times its size in memory",
    caller="400 before it is read, which says what is taken",
    kind="attack",
)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, b"[]") for path in (*ROUTES, *MEDIA)),
        *(("/v1/embeddings", value) for value in (b"{}", b'{"a":0}', b"0", b'""')),
    ],
)
async def test_a_large_body_of_tiny_values_is_refused(
    caller: Caller, fake: FakeInfinity, path: str, value: bytes
) -> None:
    """Wherever they stand."""
    name = ROUTES.get(path, ({}, "input"))[1]
    values = b",".join([value] * (1_500_000 // (len(value) + 1)))
    body = b'{"model": "bert", "query": "q", "%b": [%b]}' % (name.encode(), values)

    assert "strings, commas and brackets" in message(await caller.post(path, body), path)
    assert fake.asked == []


LARGE = 3_000_000
PARTS = LimitsSettings().json_parts_max


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": "%b"}' % (b",[{" * (LARGE // 3)),
        b'{"input": "%b"}' % (rb"\",[\\" * (LARGE // 6)),
        b'{"input": "' + b",[{" * (LARGE // 3),
        b'{"input": "' + rb"\"" * (LARGE // 2) + b"\\",
        b'{"input": ' + b"," * 1000 + b"\\" * LARGE,
        b"[" * (PARTS - 1) + b" " * LARGE + b'"',
    ],
    ids=["a text", "escapes", "no end", "escaped quotes without end", "backslashes", "as many as are taken"],
)
async def test_what_a_text_holds_is_no_part(body: bytes) -> None:
    """Also in one that never ends, and in one look."""
    check_parts(body, PARTS)


@pytest.mark.parametrize("piece", [b",", b"[", b"{", b'""', rb'"\"",', b'"[]":'])
async def test_parts_are_counted_up_to_the_limit(piece: bytes) -> None:
    body = piece * PARTS + b" " * LARGE

    check_parts(piece * 1000 + b" " * LARGE, PARTS)
    check_parts((piece * PARTS)[:1_000_000], PARTS)
    with pytest.raises(BadRequest, match="strings, commas and brackets"):
        check_parts(bytearray(body + b","), PARTS)


@pytest.mark.parametrize("path", ROUTES)
async def test_brackets_in_a_text_are_text(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """However many."""
    assert (await caller.post(path, body_of(path, ["[{" * 200]))).status == 200


@pytest.mark.parametrize("path", [*ROUTES, *MEDIA])
@pytest.mark.parametrize(
    "value", [b"9" * 400_000, b"-" + b"9" * 5000, b"1e999999999", b"0." + b"1" * 100_000, b"1" + b"0" * 30]
)
async def test_numbers_of_any_length(caller: Caller, fake: FakeInfinity, path: str, value: bytes) -> None:
    """Where one may stand, where none may, and where nothing is known."""
    fields, name = ROUTES.get(path, ({}, "input"))
    for field in ("dimensions", "top_n", name, "more"):
        rest = {key: each for key, each in {**fields, name: ["a"]}.items() if key != field}
        body = json.dumps(rest).encode()[:-1] + b', "%b": %b}' % (field.encode(), value)
        reply = await caller.post(path, body)
        assert reply.status < 500, (field, reply.raw)
        assert len(reply.raw) < 500_000


@pytest.mark.parametrize("path", ROUTES)
async def test_of_a_field_given_twice_the_last_counts(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """As for the server: what is judged is what is sent."""
    fields, name = ROUTES[path]
    rest = json.dumps(fields).encode()[:-1] + (b", " if fields else b"")
    reply = await caller.post(
        path, rest + b'"%b": ["first"], "%b": ["last"]}' % (name.encode(), name.encode())
    )

    assert reply.status == 200
    assert fake.batches == [["last"]]


@pytest.mark.parametrize("path", ROUTES)
async def test_thousands_of_fields_are_refused_or_ignored(
    caller: Caller, fake: FakeInfinity, path: str
) -> None:
    """Below /infinity unknown ones are not passed on; elsewhere there is a limit."""
    body = body_of(path, ["a"]) | {f"field {i}": i for i in range(50_000)}
    reply = await caller.post(path, body)

    if path.startswith("/infinity"):
        assert reply.status == 200
    else:
        assert "unknown fields; at most" in reply.error(400)


@pytest.mark.parametrize("path", ["/infinity/embeddings", "/infinity/rerank", *MEDIA])
@pytest.mark.parametrize("wrong", ["x" * 400_000, ["x" * 10_000] * 40, {"a": "x" * 400_000}])
async def test_an_echo_is_bounded(caller: Caller, fake: FakeInfinity, path: str, wrong: Any) -> None:
    """Infinity repeats in a 422 all that it refuses."""
    reply = await caller.post(path, {"model": wrong, "input": wrong, "query": wrong, "documents": wrong})

    assert reply.status == 422
    assert len(reply.raw) < 300_000
    assert all("input" in found for found in reply.body["detail"])


# Addresses

FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data", "http://localhost:7997/models", "file:///etc/passwd",
    "ftp://images.example/a.png", "http://other.example/a.png", "//images.example/a.png",
    "images.example/a.png",
    "http://images.example.evil.test/a", "http://evil.test/images.example", "http://user@images.example/a",
    "http://images.example@evil.test/a", "http://images.example:80@evil.test/", "http://evil.test#@images.example",
    "http://images.example\\@evil.test/a", "http://evil.test\\.images.example/", "http://images.example:8080/a",
    "http://images.example%00.evil.test/", "http://images.example%2eevil.test/", "http://cdn.example/a",
    "http://xcdn.example/a", "http://images.example./a", "http://images.exampl\u0435/a", " http://images.example/a",
    "http://images.example/a\n", "http://images.example/a b", "http:images.example/a", "http:///images.example/a",
    "http://[::1]/a", "http://2130706433/", "gopher://images.example/", "HTTP://OTHER.EXAMPLE/",
    "http://odd.example/a", "https://odd.example:8444/a", "jar:http://images.example!/a", "http://images.example:/a",
]  # fmt: skip
ALLOWED = [
    "http://images.example/a.png", "https://images.example/a.png?b=c#d", "https://images.example",
    "HTTPS://IMAGES.EXAMPLE/A", "http://a.cdn.example/x@y", "https://a.b.cdn.example/", "http://images.example:80/a",
    "https://images.example:443/a", "https://odd.example:8443/a", orange(4),
]  # fmt: skip


@pytest.mark.proves(
    "an image's address that is no data URI, on any route",
    caller="400, unless its host is one of gateway.media_hosts",
    kind="attack",
)
@pytest.mark.parametrize("path", [*ROUTES, *MEDIA])
async def test_no_body_chooses_what_is_fetched(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """Neither as one item nor beside a good one. Where only texts are taken it is none for a picture."""
    is_embedding = path.endswith("embeddings")
    for items in (items for address in FORBIDDEN for items in (address, [orange(4), address])):
        body = body_of(path, items) if path in ROUTES else {"input": items}
        reply = await caller.post(path, body | {"modality": "image", "model": "clip"})
        if is_embedding or path in MEDIA:
            message(reply, path) if path in ROUTES else message(reply, "/infinity")
    for request in fake.posts:
        assert request.body.get("modality", "text") == "text"


async def test_addresses_at_allowed_hosts_are_passed_on(caller: Caller, fake: FakeInfinity) -> None:
    """As they came, for the server to fetch."""
    for path in ("/v1/embeddings", "/infinity/embeddings"):
        await caller.post(path, {"model": "clip", "modality": "image", "input": [ALLOWED[0]]})

    assert fake.batches == [[ALLOWED[0]]] * 2


@pytest.mark.parametrize("address", ALLOWED)
async def test_what_is_allowed(address: str) -> None:
    assert is_medium(address, LimitsSettings(media_hosts=HOSTS))
    assert is_medium(address, LimitsSettings()) is address.startswith("data:")


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_what_is_not_allowed(address: str) -> None:
    assert not is_medium(address, LimitsSettings(media_hosts=HOSTS))

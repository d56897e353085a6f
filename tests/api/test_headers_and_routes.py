"""Headers of calls and answers, and what is asked for that is not there."""

import asyncio
import re
from typing import Any

import pytest

from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pools_of
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

ROUTES = ["/embeddings", "/v1/embeddings", "/rerank", "/v1/rerank", "/classify", "/v1/classify"]
GENERATED = re.compile(r"[0-9a-f]{24}")


@pytest.mark.parametrize(
    "given", ["abc", "a" * 128, "01J-x_y.z:~!", "00-4bf92f3577b34da6a3ce929d0e0e4736-01"]
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/nowhere"])
async def test_a_request_id_comes_back(caller: Caller, fake: FakeInfinity, given: str, path: str) -> None:
    """With answers and with errors, so that both can be found."""
    reply = await caller.post(path, {"model": "bert", "input": "one"}, x_request_id=given)

    assert reply.headers["x-request-id"] == given
    if reply.status == 200:
        assert reply.body["id"] == f"infinity-{given}"


@pytest.mark.parametrize("given", ["", "a" * 129, "with space", 'quote"', "back\\slash", "ümlaut", "a\tb"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/nowhere"])
async def test_an_unsafe_request_id_is_replaced(
    caller: Caller, fake: FakeInfinity, given: str, path: str
) -> None:
    """What could break out of a log line or of JSON does not come back."""
    reply = await caller.post(path, {"model": "bert", "input": "one"}, x_request_id=given)

    assert GENERATED.fullmatch(reply.headers["x-request-id"])
    if reply.status == 200:
        assert reply.body["id"] == f"infinity-{reply.headers['x-request-id']}"


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/status", "/metrics"])
async def test_answers_that_are_no_calls_have_an_id_too(caller: Caller, path: str) -> None:
    """Who sends one with everything finds it with everything."""
    reply = await caller.get(path, x_request_id="abc")

    assert reply.headers["x-request-id"] == "abc"


async def test_every_call_without_an_id_gets_its_own(caller: Caller, fake: FakeInfinity) -> None:
    """Also calls at the same moment."""
    replies = await asyncio.gather(*(caller.embed("one") for _ in range(50)))

    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 50
    assert all(GENERATED.fullmatch(one) for one in ids)


async def test_server_timing_splits_the_time(caller: Caller, fake: FakeInfinity) -> None:
    """What was spent waiting for a server and what the server took, in milliseconds."""
    fake.faults.append(Fault(delay=0.1))

    reply = await caller.embed("one")

    found = re.fullmatch(r"queue;dur=(\d+\.\d{3}), upstream;dur=(\d+\.\d{3})", reply.headers["Server-Timing"])
    assert found
    assert 0 <= float(found[1]) < 5000
    assert 100 <= float(found[2]) < 5000


@pytest.mark.parametrize("path", ROUTES)
async def test_an_error_has_the_headers_of_an_answer(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """Clients look for them without looking at the status."""
    reply = await caller.post(path, b"{")

    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["x-request-id"]
    assert reply.headers["Server-Timing"] == "queue;dur=0.000, upstream;dur=0.000"
    assert reply.headers["Content-Length"] == str(len(reply.raw))


# A time limit of the caller's own


async def test_who_is_in_a_hurry_is_told_when_time_is_up() -> None:
    """504, and not later than asked for, for every task and under both names of the header."""
    loop = asyncio.get_running_loop()
    calls: list[tuple[str, dict[str, object]]] = [
        ("/v1/embeddings", {"model": "bert", "input": ["slow"]}),
        ("/v1/rerank", {"model": "cross", "query": "slow", "documents": ["a"]}),
        ("/v1/classify", {"model": "classifier", "input": ["slow"]}),
    ]
    async with (
        FakeInfinity() as fake,
        GatewayInProcess(config(*pools_of(fake))) as gateway,
        Caller(gateway.url) as caller,
    ):
        fake.faults.append(Fault(hang=True, when=contains("slow")))
        for path, body in calls:
            for header in ("x-request-timeout", "x-litellm-timeout"):
                asked = loop.time()
                reply = await caller.post(path, body, **{header: "0.15"})

                # The call's time and that of its batch run out together, or a hundredth of a second later.
                said = r"no answer within 0\.1[3-7]|the server did not answer in time"
                assert re.match(said, reply.error(504))
                assert 0.15 <= loop.time() - asked < 5
                assert reply.body["error"]["type"] == "timeout_error"


async def test_a_time_limit_is_for_its_caller_alone(caller: Caller, fake: FakeInfinity) -> None:
    """Who shares the batch and has time gets the answer that comes later."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate))

    async with asyncio.TaskGroup() as calls:
        hasty = calls.create_task(
            caller.post("/v1/embeddings", {"model": "bert", "input": "hasty"}, x_request_timeout="0.2")
        )
        patient = calls.create_task(caller.embed("patient"))
        [batch] = await fake.received(1)
        assert hasty.done() is False
        await hasty
        assert patient.done() is False
        gate.set()

    assert sorted(batch) == ["hasty", "patient"]
    assert hasty.result().error(504)
    assert patient.result().vectors == [vector_of("patient").tolist()]
    assert len(fake.batches) == 1


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", "1e999", "1s", "1,5", "0x10"])
async def test_a_time_limit_is_a_number_of_seconds(caller: Caller, fake: FakeInfinity, given: str) -> None:
    """Anything else would be no limit, or none that was meant."""
    for header in ("x-request-timeout", "x-litellm-timeout"):
        reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, **{header: given})

        assert header in reply.error(400)
    assert fake.asked == []


@pytest.mark.parametrize("given", ["30", "0.5", "600", "1e2", "100000000", ""])
async def test_any_number_of_seconds_is_taken(caller: Caller, fake: FakeInfinity, given: str) -> None:
    """More than the gateway's own limit means that limit, and nothing means nothing."""
    reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, x_request_timeout=given)

    assert reply.status == 200


@pytest.mark.parametrize(
    ("given", "texts", "expected"),
    [
        ("bulk", 1, "bulk"),
        ("BULK", 1, "bulk"),
        ("interactive", 1, "interactive"),
        ("", 1, "interactive"),
        ("interactive", 9, "bulk"),  # many texts are bulk, whatever their caller says
    ],
)
async def test_a_priority_can_only_be_lowered(
    caller: Caller, fake: FakeInfinity, given: str, texts: int, expected: str
) -> None:
    items = [f"{given} {i}" for i in range(texts)]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/embeddings", {"model": "bert", "input": items}),
        ("/v1/rerank", {"model": "cross", "query": "q", "documents": items}),
        ("/v1/classify", {"model": "classifier", "input": items}),
    ]
    for path, body in calls:
        before = await caller.samples()
        reply = await caller.post(path, body, x_priority=given)
        after = await caller.samples()

        assert reply.status == 200
        for name in ("interactive", "bulk"):
            labels = {"model": body["model"], "class_": name}
            counted = [each.value("queue_wait_seconds_count", **labels) for each in (before, after)]
            assert counted[1] - counted[0] == (name == expected)


@pytest.mark.parametrize("given", ["high", "0", "bulk, interactive", "Bulk!"])
async def test_an_unknown_priority_is_refused(caller: Caller, fake: FakeInfinity, given: str) -> None:
    reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, x_priority=given)

    assert reply.error(400) == "x-priority must be interactive or bulk"
    assert fake.asked == []


# Routes


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/chat/completions", "/v1/embeddings/x", "/V1/embeddings", "/%00"]
)
async def test_an_unknown_route_is_a_json_error(
    caller: Caller, fake: FakeInfinity, method: str, path: str
) -> None:
    """With its path, in the shape of all other errors."""
    reply = await caller.send(method, path, b"{}" if method != "GET" else None)

    assert "there is no route" in reply.error(404)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/models"])
async def test_a_slash_too_many_is_no_redirect(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """Behind an ingress that ends TLS it would lead to http, and clients lose body or key on the way."""
    method = "POST" if path in ROUTES else "GET"

    reply = await caller.send(method, f"{path}/", b"{}" if method == "POST" else None)

    assert reply.status in (200, 400, 404)
    assert "Location" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path) for method in ("GET", "PUT", "DELETE", "PATCH") for path in ROUTES),
        *(("POST", path) for path in ("/models", "/v1/models", "/health", "/metrics", "/status")),
    ],
)
async def test_an_unknown_method_is_a_json_error(
    caller: Caller, fake: FakeInfinity, method: str, path: str
) -> None:
    """It names the methods that there are."""
    reply = await caller.send(method, path, b"{}" if method != "GET" else None)

    assert f"{method} is not possible on {path}" in reply.error(405)
    assert ("POST" if path in ROUTES else "GET") in reply.headers["Allow"]


@pytest.mark.parametrize("host", [b"[", b"[::1", b"a b", b"", b"\xff", b"a:b:c", b"gateway:99999999"])
@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/nowhere", b"/health/readiness"])
async def test_no_host_header_is_an_internal_error(
    gateway: GatewayInProcess, fake: FakeInfinity, host: bytes, path: bytes
) -> None:
    """Scanners send such all day, and each would be a traceback in the log."""
    answer = await raw_exchange(
        gateway.port,
        b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host),
    )

    assert answer.split(b" ")[1] in (b"200", b"400", b"404", b"405", b"421"), answer

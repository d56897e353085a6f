"""The stand-in does what it is told to do wrong. What it does right is in tests/test_contract.py."""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.fakes.faults import (
    Fault,
    backwards,
    broken_base64,
    contains,
    duplicate_index,
    fewer,
    more,
    shorter_vector,
    to,
    wrong_index,
)
from tests.fakes.infinity import (
    FakeInfinity,
    FakeModel,
    ServiceTime,
    classes_of,
    logit_of,
    score_of,
    vector_of,
    vectors_of,
)


class Caller:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def status(self, path: str = "/health") -> int:
        async with self._session.get(path) as answer:
            return answer.status

    async def post(self, path: str, **body: Any) -> tuple[int, bytes]:
        async with self._session.post(path, json=body) as answer:
            return answer.status, await answer.read()

    async def embed(self, *texts: str, model: str = "bert", **options: Any) -> tuple[int, Any]:
        status, raw = await self.post("/embeddings", model=model, input=list(texts), **options)
        return status, json.loads(raw)

    async def rows(self, *texts: str, **options: Any) -> list[Any]:
        status, body = await self.embed(*texts, **options)
        assert status == 200, body
        return list(body["data"])


@pytest.fixture
async def caller(fake_infinity: FakeInfinity) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(fake_infinity.url) as session:
        yield Caller(session)


async def test_answers_are_what_the_functions_say(caller: Caller) -> None:
    rows = await caller.rows(" one ", "two")
    tokens = await caller.rows("two words", model="colbert")
    _, raw = await caller.post("/rerank", model="cross", query="q", documents=["a", "b"], raw_scores=True)
    _, classes = await caller.post("/classify", model="classifier", input=["a"])

    assert [row["embedding"] for row in rows] == [vector_of("one").tolist(), vector_of("two").tolist()]
    assert tokens[0]["embedding"] == vectors_of("two words").tolist()
    logits = {result["index"]: result["relevance_score"] for result in json.loads(raw)["results"]}
    assert logits == {0: logit_of("q", "a"), 1: logit_of("q", "b")}
    assert score_of("q", "a") == pytest.approx(1 / (1 + math.exp(-logit_of("q", "a"))), abs=1e-6)
    assert json.loads(classes)["data"] == [classes_of("a")]


async def test_another_seed_is_another_vector_space() -> None:
    async with (
        FakeInfinity([FakeModel("m", dim=3, seed="other")]) as fake,
        aiohttp.ClientSession(fake.url) as session,
    ):
        [row] = await Caller(session).rows("a", model="m")

    assert row["embedding"] == vector_of("a", 3, "other").tolist()
    assert not np.allclose(row["embedding"], vector_of("a", 3))


async def test_requests_and_batches_are_recorded(fake_infinity: FakeInfinity, caller: Caller) -> None:
    await caller.embed("a", "b")
    await caller.post("/rerank", model="cross", query="q", documents=["c"])
    await caller.post("/embeddings", model="bert", input="d")
    await caller.status("/models")

    assert fake_infinity.batches == [["a", "b"], ["c"], ["d"]]
    assert [request.path for request in fake_infinity.requests] == [
        "/embeddings",
        "/rerank",
        "/embeddings",
        "/models",
    ]
    assert fake_infinity.requests[1].body == {"model": "cross", "query": "q", "documents": ["c"]}
    times = [request.at_s for request in fake_infinity.requests]
    assert times == sorted(times)
    assert times[-1] <= asyncio.get_running_loop().time()


async def test_a_fault_ends_after_its_times(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(status=503, times=2, headers={"Retry-After": "7"}))

    assert [(await caller.embed("a"))[0] for _ in range(3)] == [503, 503, 200]


async def test_faults_fall_on_what_they_fit(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(status=422, when=contains("poison")))
    fake_infinity.faults.append(Fault(status=500, when=to("/models")))

    assert (await caller.embed("a", "some poison"))[0] == 422
    assert (await caller.post("/rerank", model="cross", query="poison", documents=["a"]))[0] == 422
    assert (await caller.embed("a"))[0] == 200
    assert await caller.status("/models") == 500
    assert await caller.status("/health") == 200


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_status_comes_with_infinitys_shape(
    fake_infinity: FakeInfinity, caller: Caller, status: int
) -> None:
    fake_infinity.faults.append(Fault(status=status))

    said, body = await caller.embed("a")

    assert said == status
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["code"] == status


async def test_a_delay_lasts_until_the_event(fake_infinity: FakeInfinity, caller: Caller) -> None:
    gate = asyncio.Event()
    fake_infinity.faults.append(Fault(delay=gate, times=1))

    async with asyncio.TaskGroup() as calls:
        held = calls.create_task(caller.embed("slow"))
        assert await fake_infinity.received(1) == [["slow"]]
        assert (await caller.embed("fast"))[0] == 200
        assert not held.done()
        assert fake_infinity.in_flight == 1
        gate.set()

    assert held.result()[0] == 200
    assert fake_infinity.in_flight_max == 2


async def test_a_hung_request_ends_with_the_server(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(hang=True))

    async with asyncio.TaskGroup() as calls:
        failing = calls.create_task(failure(caller))
        await fake_infinity.received(1)
        assert await caller.status() == 200
        await fake_infinity.stop()

    assert isinstance(failing.result(), aiohttp.ServerDisconnectedError)


async def failure(caller: Caller, *texts: str) -> aiohttp.ClientError:
    with pytest.raises(aiohttp.ClientError) as caught:
        await caller.embed(*(texts or ("a",)))
    return caught.value


async def test_a_dead_worker_answers_nobody_until_429(caller: Caller, fake_infinity: FakeInfinity) -> None:
    fake_infinity.worker.queue_size = 2
    fake_infinity.faults.append(Fault(kills_worker=True, when=contains("poison")))

    async with asyncio.TaskGroup() as calls:
        calls.create_task(failure(caller, "poison"))
        await fake_infinity.received(1)
        calls.create_task(failure(caller, "a", "b"))
        await fake_infinity.received(2)
        assert await caller.status() == 200
        assert fake_infinity.worker.queued_items == 3
        assert (await caller.embed("c"))[0] == 429
        await fake_infinity.stop()

    await fake_infinity.start()
    assert (await caller.embed("c"))[0] == 200


async def test_an_input_kills_the_server_until_it_is_started(
    fake_infinity: FakeInfinity, caller: Caller
) -> None:
    fake_infinity.faults.append(Fault(kills_server=True, when=contains("killer")))

    await asyncio.gather(failure(caller, "a", "killer"), failure(caller, "killer"))
    assert not fake_infinity.runs
    with pytest.raises(aiohttp.ClientConnectionError):
        await caller.embed("a")

    await fake_infinity.start()
    assert (await caller.embed("a"))[0] == 200


async def test_a_stopped_server_refuses_and_comes_back(fake_infinity: FakeInfinity, caller: Caller) -> None:
    url = fake_infinity.url
    await caller.embed("a")

    await fake_infinity.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", fake_infinity.port)
    await fake_infinity.start()

    assert fake_infinity.url == url
    assert (await caller.embed("a"))[0] == 200


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_drops_before_the_answer(
    fake_infinity: FakeInfinity, caller: Caller, reset: bool
) -> None:
    await caller.embed("a")
    fake_infinity.faults.append(Fault(drop="before", reset=reset))

    error = await failure(caller)

    kind = aiohttp.ClientOSError if reset else aiohttp.ServerDisconnectedError
    assert isinstance(error, kind)


async def test_a_connection_drops_within_the_answer(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(drop="middle"))

    assert isinstance(await failure(caller), aiohttp.ClientPayloadError)


async def test_bytes_that_are_no_http(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(wire=b"\0\1\2 garbage\r\n\r\n"))

    assert isinstance(await failure(caller), aiohttp.ClientResponseError)


async def test_a_body_that_is_no_json(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(raw=b"<html>", content_type="text/html"))

    assert await caller.post("/embeddings", model="bert", input="a") == (200, b"<html>")


@pytest.mark.parametrize(
    ("edit", "indices"),
    [
        (fewer, [0, 1]),
        (more, [0, 1, 2, 3]),
        (duplicate_index, [0, 1, 0]),
        (wrong_index, [0, 1, 3]),
        (backwards, [2, 1, 0]),
    ],
)
async def test_answers_with_wrong_rows(
    fake_infinity: FakeInfinity, caller: Caller, edit: Any, indices: list[int]
) -> None:
    fake_infinity.faults.append(Fault(edit=edit))

    assert [row["index"] for row in await caller.rows("a", "b", "c")] == indices


async def test_answers_with_broken_vectors(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(edit=shorter_vector, times=2))
    fake_infinity.faults.append(Fault(edit=broken_base64))

    [floats] = await caller.rows("a")
    [short] = await caller.rows("a", encoding_format="base64")
    [broken] = await caller.rows("a", encoding_format="base64")

    assert len(floats["embedding"]) == 7
    assert len(base64.b64decode(short["embedding"])) < 32
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(broken["embedding"], validate=True)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_answer_is_right_all_the_same(
    fake_infinity: FakeInfinity, caller: Caller, chunked: bool
) -> None:
    fake_infinity.faults.append(Fault(padding_bytes=1_000_000, chunked=chunked))

    _, raw = await caller.post("/embeddings", model="bert", input="a")

    assert len(raw) > 1_000_000
    assert json.loads(raw)["data"][0]["embedding"] == vector_of("a").tolist()


async def test_a_dripping_answer_is_right_all_the_same(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(drip_s=1e-6))

    assert (await caller.rows("a"))[0]["embedding"] == vector_of("a").tolist()


async def test_a_caller_who_leaves_a_dripping_answer(fake_infinity: FakeInfinity, caller: Caller) -> None:
    fake_infinity.faults.append(Fault(drip_s=0.01, times=1))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await caller.embed("a")

    assert (await caller.embed("a"))[0] == 200


def test_service_time_follows_the_formula() -> None:
    service = ServiceTime(l=100, o=10, a=1, b=0.5)

    assert service.busy_s([4, 2], batch_size=32) == 10 + 2 * 1 + 0.5 * 2 * 4
    # Too many for one batch: [1, 2] and [8] once they are sorted.
    assert service.busy_s([8, 1, 2], batch_size=2) == (10 + 2 + 0.5 * 2 * 2) + (10 + 1 + 0.5 * 8)


async def test_service_is_serial_and_latency_is_not() -> None:
    service = ServiceTime(l=0.02, o=0.02)
    async with (
        FakeInfinity([FakeModel("m")], service=service) as fake,
        aiohttp.ClientSession(fake.url) as session,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(Caller(session).embed("a") for _ in range(4)))

    assert loop.time() - began >= 4 * 0.02 + 0.02

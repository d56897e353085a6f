"""What only real connections show: callers who hang up or never read, idleness, and the process's end."""

import asyncio
import gc
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway import service
from gateway.api.endpoint import Serving
from gateway.api.protocol import Protocol
from gateway.core.lanes import Ticket
from gateway.core.settings import BatchingSettings, LimitsSettings
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pool, pools_of
from tests.api.waiting import until
from tests.api.ways import Recorder, Way, by_asgi, through
from tests.end_to_end.configs import entry, written
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.gateway_in_process import GatewayInProcess
from tests.gateway_process import GatewayProcess

pytestmark = SHARED

LIST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(text: str, *fields: bytes) -> bytes:
    body = json.dumps({"model": "bert", "input": text}).encode()
    lines = (b"POST /v1/embeddings HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *fields)
    return b"\r\n".join((*lines, b"", b"")) + body


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


recorder = Recorder()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """One that sends a single batch at a time."""
    settings = config(*pools_of(shared_fake), batching=BatchingSettings(in_flight_max=1))
    with through(recorder):
        async with GatewayInProcess(settings) as gateway:
            yield gateway


@pytest.fixture
def gate(fake: FakeInfinity) -> asyncio.Event:
    """The server answers when this is set."""
    gate = asyncio.Event()
    fake.faults.append(Fault(delay=gate))
    return gate


# Callers who hang up


async def test_who_hangs_up_is_noticed_at_once(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """Without a timer: the call is over within a few turns of the event loop."""
    before = (await caller.samples()).total("requests_total", status=499)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("leaving"))
    await fake.received(1)
    loop = asyncio.get_running_loop()

    left_at = loop.time()
    writer.close()
    await until(lambda: gateway.runtime.gateway.stats()[0].in_flight_calls == 0)
    took_s = loop.time() - left_at
    samples = await caller.samples()
    gate.set()

    assert took_s < 0.045
    assert samples.value("request_items_count", route="/v1/embeddings", model="") >= 1
    assert samples.total("requests_total", status=499) == before + 1


@pytest.mark.parametrize("sent", ["nothing", "half a head", "a head", "half a body", "all"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_whoever_leaves_is_counted_once_or_not_at_all(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, sent: str, reset: bool
) -> None:
    """From the head on there is a request; and nothing stays behind of it."""
    whole = request("leaving")
    head = whole.index(b"\r\n\r\n") + 4
    parts = {"nothing": b"", "half a head": whole[:40], "a head": whole[:head], "half a body": whole[:-5]}
    before = (await caller.samples()).total("requests_total")

    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(parts.get(sent, whole))
    if sent != "all":
        await asyncio.sleep(0.01)
    if reset:
        writer.transport.abort()
    writer.close()
    counted = 0 if sent in ("nothing", "half a head") else 1

    async def is_counted() -> bool:
        return (await caller.samples()).total("requests_total") == before + counted

    await until(is_counted)
    after = await caller.samples_when("in_flight_requests", 0)
    assert after.total("requests_total") == before + counted
    assert not recorder.connections[-1].server_state.tasks


async def test_who_leaves_before_the_first_step_is_counted(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity
) -> None:
    """A task that is cancelled before it begins never begins, and could not count anything."""
    before = (await caller.samples()).total("requests_total", status=499)
    made = len(recorder.connections)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    await until(lambda: len(recorder.connections) > made)
    connection = recorder.connections[made]

    connection.data_received(request("leaving"))
    connection.connection_lost(None)
    await caller.samples_when("requests_total", before + 1, status=499)
    writer.close()

    assert not connection.server_state.tasks
    assert fake.asked == []


async def test_who_is_cancelled_in_the_turn_of_its_arrival_is_answered(
    gateway: GatewayInProcess,
) -> None:
    """As by the server when its time to end is over."""
    made = len(recorder.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    await until(lambda: len(recorder.connections) > made)
    connection = recorder.connections[made]

    connection.data_received(request("late", b"Connection: close"))
    [call] = connection.server_state.tasks
    call.cancel()
    answer = await reader.read()
    writer.close()

    assert statuses(answer) == [503]
    assert not connection.server_state.tasks


async def test_who_leaves_with_calls_behind_leaves_nothing(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """While requests wait nothing is read, so it shows when the first is answered."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("first") + request("second") * 20)
    await fake.received(1)

    writer.close()
    gate.set()
    connection = recorder.connections[-1]
    await until(lambda: connection.transport.is_closing() and not connection.server_state.tasks)
    await caller.samples_when("in_flight_requests", 0)

    assert len(fake.batches) < 21


async def test_nonsense_behind_a_call_ends_the_call(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """The connection is closed with 400, so nobody is there for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("first"))
    await fake.received(1)
    writer.write(b"nonsense\r\n\r\n")
    answer = await reader.read()
    writer.close()

    await caller.samples_when("in_flight_requests", 0)
    gate.set()

    assert statuses(answer) == [400]


# Order, and callers who do not read


async def test_answers_come_in_the_order_of_the_calls(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity, gate: asyncio.Event
) -> None:
    """What needs no server waits too, when it comes behind a call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("first", b"x-request-id: 1"))
    await fake.received(1)
    writer.write(LIST + request("second", b"x-request-id: 2") + LIST.replace(b"GET", b"PUT"))
    writer.write(request("third", b"x-request-id: 3", b"Connection: close"))
    await asyncio.sleep(0.05)
    gate.set()
    answer = await reader.read()
    writer.close()

    assert statuses(answer) == [200, 200, 200, 405, 200]
    first, second, third = (answer.index(b"x-request-id: %d\r\n" % i) for i in (1, 2, 3))
    assert first < answer.index(b'"owned_by"') < second < answer.index(b" 405 ") < third


@pytest.mark.parametrize("kind", ["answers", "errors", "refusals"])
async def test_a_caller_who_never_reads_is_not_read(
    gateway: GatewayInProcess, fake: FakeInfinity, kind: str
) -> None:
    """Its answers stay within a buffer, and what it sends stays with it."""
    one = {
        "answers": request("one"),
        "errors": request("one").replace(b'"model"', b"'model'"),
        "refusals": request("one", b"Content-Encoding: gzip"),
    }[kind]
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", gateway.port))
        await until(lambda: not recorder.connections[-1].transport.is_closing())
        connection = recorder.connections[-1]
        block = one * 500
        sent, stuck_since = 0, loop.time()
        async with asyncio.timeout(60):
            while loop.time() - stuck_since < 0.5:
                try:
                    sent += sock.send(block[sent % len(one) :])
                    stuck_since = loop.time()
                except BlockingIOError:
                    pass
                await asyncio.sleep(0)
                assert connection.transport.get_write_buffer_size() < 200_000
                assert len(connection.pipeline) < 4_000

        assert sent > 100 * len(one)
        assert connection.flow.read_paused
    await until(lambda: connection.transport.is_closing() and not connection.server_state.tasks)


async def test_one_connection_serves_call_after_call(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """Each with its own answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    made = len(recorder.connections)
    for i in range(300):
        writer.write(request(f"text {i}", b"x-request-id: %d" % i))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nx-request-id: %d\r\n" % i in head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        assert body["data"][0]["embedding"] == pytest.approx(vector_of(f"text {i}").tolist())
    writer.close()

    assert len(recorder.connections) == made


async def test_an_answer_is_one_piece(gateway: GatewayInProcess, fake: FakeInfinity) -> None:
    """Head and body leave in one write, so that a caller gets them in one packet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(5):
        writer.write(request("one"))
        answer = await reader.read(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"}")
    writer.close()


# Idle connections


@pytest.mark.parametrize("way", [Protocol, by_asgi], ids=["direct", "ordinary"])
async def test_a_connection_is_closed_when_it_was_idle_for_long(
    shared_fake: FakeInfinity, fake: FakeInfinity, way: Way
) -> None:
    """Counted from its last answer, however often it was used before; never under a call."""
    keep_alive_s = 0.4
    loop = asyncio.get_running_loop()
    settings = config(pool("bert", shared_fake), limits=LimitsSettings(keep_alive_s=keep_alive_s))
    with through(way):
        async with GatewayInProcess(settings) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)

            async def call() -> None:
                writer.write(request("one"))
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))

            for _ in range(4):
                await call()
                await asyncio.sleep(0.6 * keep_alive_s)
            fake.faults.append(Fault(delay=2 * keep_alive_s))
            await call()
            answered_at = loop.time()
            rest = await reader.read()
            closed_after_s = loop.time() - answered_at
            writer.close()

    assert rest == b""
    assert keep_alive_s * 0.9 <= closed_after_s < 10 * keep_alive_s


# The end of the process


async def test_a_body_that_never_comes_does_not_keep_the_process(tmp_path: Path) -> None:
    """When the time for calls under way is over its caller is told, as those are whose calls hang."""
    async with FakeInfinity() as fake:
        content = {
            "model_list": [entry("bert", [fake.url])],
            "gateway": {"drain": {"grace_s": 0, "in_flight_s_max": 1}},
        }
        async with GatewayProcess(config=written(tmp_path / "config.yaml", content)) as gateway:
            await gateway.wait_ready()
            port = int(gateway.url.rsplit(":", 1)[1])
            half = asyncio.create_task(raw_exchange(port, request("half")[:-3]))
            await asyncio.sleep(0.2)
            gateway.signal(signal.SIGTERM)
            answer = await half
            code = await gateway.wait()

    assert statuses(answer) == [503]
    assert b"connection: close" in answer
    assert code == 0
    assert not any("Traceback" in line for line in gateway.output)


async def test_a_call_behind_another_is_answered_before_the_end(tmp_path: Path) -> None:
    """Both were sent before the signal."""
    gate = asyncio.Event()
    async with FakeInfinity() as fake:
        content = {"model_list": [entry("bert", [fake.url])], "gateway": {"drain": {"grace_s": 0}}}
        async with GatewayProcess(config=written(tmp_path / "config.yaml", content)) as gateway:
            await gateway.wait_ready()
            fake.requests.clear()
            fake.faults.append(Fault(delay=gate, times=1))
            port = int(gateway.url.rsplit(":", 1)[1])
            calls = asyncio.create_task(raw_exchange(port, request("first") + request("second")))
            await fake.received(1)
            gateway.signal(signal.SIGINT)
            await until(lambda: any("no new connections" in line for line in gateway.output))
            gate.set()
            answer = await calls
            code = await gateway.wait()

    assert statuses(answer)[0] == 200
    assert code == 0


async def test_many_connections_are_accepted_in_a_turn(gateway: GatewayInProcess) -> None:
    """Or callers who come at once to a busy gateway would wait for a turn each."""
    made = len(recorder.connections)
    callers = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(128)]
    for _ in range(16):
        await asyncio.sleep(0)
    accepted = len(recorder.connections) - made
    for caller in callers:
        caller.close()

    assert accepted == 128


async def test_a_call_that_has_ended_is_garbage_at_once(gateway: GatewayInProcess, caller: Caller) -> None:
    """Calls that hold each other would have to be found by the collector, which stops everything."""
    for i in range(3):
        await caller.embed(f"warm {i}")
    gc.collect()
    gc.disable()
    try:
        for i in range(5):
            await caller.embed(f"counted {i}")
        held = [each for each in gc.get_objects() if isinstance(each, Ticket | Serving | service.Serving)]
    finally:
        gc.enable()

    assert len(held) <= 1  # of the latest call

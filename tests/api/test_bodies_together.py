"""All bodies together have a limit: however many are large, memory stays, and small calls pass."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fuzz.callers_in_memory import Callers
from fuzz.in_memory import InMemory, Servers, quiet, value_of
from gateway.api.protocol import Protocol
from gateway.core.settings import DeploymentSettings, LimitsSettings
from gateway.pool import Answer, Request
from tests.api.caller import Caller, raw_exchange
from tests.api.configs import SHARED, config, pools_of
from tests.api.waiting import until
from tests.api.ways import by_asgi, through
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

LARGE, ALL = 300_000, 1_100_000
LIMITS = LimitsSettings(body_bytes_max=LARGE, bodies_bytes_max=ALL)
CALL = b'{"model": "bert", "input": "one"}'


def body(size: int) -> bytes:
    return CALL.ljust(size)


def head(size: int, *fields: bytes, chunked: bool = False) -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    lines = (b"POST /v1/embeddings HTTP/1.1", b"Host: localhost", framing, *fields)
    return b"\r\n".join((*lines, b"", b""))


def in_chunks(whole: bytes, size: int) -> bytes:
    pieces = (whole[at : at + size] for at in range(0, len(whole), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[Protocol, by_asgi], ids=["direct", "ordinary"]
)
async def gateway(request: Any, shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    with through(request.param):
        async with GatewayInProcess(config(*pools_of(shared_fake), limits=LIMITS)) as gateway:
            yield gateway


@pytest.mark.proves(
    "many large bodies at once",
    caller="429 with Retry-After past `limits.bodies_bytes_max`, before they come; small calls are served",
    kind="attack",
)
@SHARED
async def test_large_bodies_leave_room_for_small_ones(
    gateway: GatewayInProcess, caller: Caller, fake: FakeInfinity
) -> None:
    """Those held are of calls that wait for a server, and one that is being sent."""
    bodies, gate = gateway.runtime.bodies, asyncio.Event()
    fake.faults.append(Fault(delay=gate))
    waiting = [asyncio.create_task(caller.post("/v1/embeddings", body(LARGE))) for _ in range(2)]
    await until(lambda: bodies.held == 2 * LARGE)
    _, sending = await asyncio.open_connection("127.0.0.1", gateway.port)
    sending.write(head(LARGE) + body(LARGE)[: LARGE // 2])
    await until(lambda: bodies.held == 2 * LARGE + LARGE // 2)

    said = await raw_exchange(gateway.port, head(LARGE), until_closed=False)
    refused = await raw_exchange(gateway.port, head(0, chunked=True) + in_chunks(body(LARGE), 10_000))
    small = asyncio.create_task(caller.embed("small"))
    await until(lambda: 0 < bodies.held - (2 * LARGE + LARGE // 2) < 1000)
    sending.close()
    await until(lambda: bodies.held < 2 * LARGE + 1000)
    gate.set()
    replies = await asyncio.gather(*waiting, small)
    samples = await caller.samples()

    for answer in (said, refused):
        fields = answer.partition(b"\r\n\r\n")[0].splitlines()
        assert fields[0].startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in fields
        assert b"connection: close" in fields
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
    assert [reply.status for reply in replies] == [200] * 3
    assert samples.value("rejected_total", reason="bodies_full") == 2
    assert bodies.held == 0
    assert (await caller.post("/v1/embeddings", body(LARGE))).status == 200


class Waits(Servers):
    """Answers when it is let."""

    def __init__(self) -> None:
        self.waiting: list[tuple[asyncio.Future[Answer], Request]] = []
        self.patient = False

    async def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Answer:
        sent: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting.append((sent, request))
        if not self.patient:
            self.answer()
        return await sent

    def answer(self) -> None:
        for sent, request in self.waiting:
            if not sent.done():
                values = [value_of(request, item) for item in request.items]
                sent.set_result(Answer(values, sum(map(len, request.items))))
        self.waiting.clear()


SERVERS = Waits()
MEMORY = InMemory(SERVERS, models=("bert",), limits=LIMITS)
WAYS = (Callers(MEMORY, MEMORY.calls, LIMITS), Callers(MEMORY, {}, LIMITS))
sizes = st.sampled_from([len(CALL), 5_000, 60_000, 80_000, LARGE, LARGE + 1])
PIECE = 70_000


class Bodies(RuleBasedStateMachine):
    """Connections that send, break off and end in any order. What they hold is bounded, and given back."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.bodies = MEMORY.runtime.bodies
        self.unsent: dict[Any, bytes] = {}
        SERVERS.patient = True

    @rule(target=connections, way=st.sampled_from(WAYS))
    def connect(self, way: Callers) -> Any:
        connection = MEMORY.run(way.connect())
        self.unsent[connection] = b""
        return connection

    @rule(connection=connections, size=sizes, chunk=st.sampled_from([0, 1000, 40_000]), closes=st.booleans())
    def ask(self, connection: Any, size: int, chunk: int, closes: bool) -> None:
        """Also while earlier requests have no answer, or have not been sent to their end."""
        fields = (b"Connection: close",) if closes else ()
        sent = in_chunks(body(size), chunk) if chunk else body(size)
        self.unsent[connection] += head(size, *fields, chunked=bool(chunk)) + sent

    @rule(connection=connections, size=st.sampled_from([10, 3000, PIECE]))
    def go_on(self, connection: Any, size: int) -> None:
        unsent = self.unsent[connection]
        self.unsent[connection] = unsent[size:]
        MEMORY.run(connection.send(unsent[:size]))

    @rule(connection=connections)
    def break_off(self, connection: Any) -> None:
        self.unsent[connection] = b""
        MEMORY.run(connection.send(b"\x00 no HTTP\r\n\r\n"))

    @rule(connection=consumes(connections))
    def hang_up(self, connection: Any) -> None:
        del self.unsent[connection]
        MEMORY.run(connection.end())

    @rule(connection=connections)
    def be_stopped(self, connection: Any) -> None:
        """As by a server whose time to end is over."""
        for task in list(connection.state.tasks):
            task.cancel()
        MEMORY.run(quiet())

    @rule()
    def be_answered(self) -> None:
        SERVERS.answer()
        MEMORY.run(quiet())

    @invariant()
    def is_bounded(self) -> None:
        assert 0 <= self.bodies.held <= ALL

    def teardown(self) -> None:
        SERVERS.patient = False
        self.be_answered()
        for connection in self.unsent:
            MEMORY.run(connection.end())
        self.be_answered()
        left, self.bodies.held = self.bodies.held, 0
        assert left == 0


TestBodies = Bodies.TestCase
TestBodies.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

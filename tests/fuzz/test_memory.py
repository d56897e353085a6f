"""Bad requests leave nothing behind."""

import asyncio
import gc
import itertools
import random
import sys
from collections.abc import Awaitable, Iterator

import pytest

from fuzz import fuzz_bodies
from fuzz.callers_in_memory import Callers
from fuzz.in_memory import InMemory, Servers
from gateway.core.lanes import Value
from gateway.core.settings import DeploymentSettings, LimitsSettings
from gateway.messages import Task
from gateway.pool import Answer, Request

WARM, MEASURED = 6_000, 10_000
PATHS = [
    *(b"/v1/embeddings", b"/rerank", b"/classify", b"/v2/embed", b"/embed"),
    *(b"/infinity/rerank", b"/engines/m/embeddings"),
]


class Forgetful(Servers):
    """Remembers no text, as those of the other tests do."""

    def send(self, deployment: DeploymentSettings, request: Request, timeout_s: float) -> Awaitable[Answer]:
        sent: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        values: dict[Task, Value] = {Task.EMBED: b'"AACAPw=="', Task.CLASSIFY: b"[]", Task.RERANK: 0.5}
        sent.set_result(Answer([values[request.key.task]] * len(request.items), len(request.items)))
        return sent


def bad_requests() -> Iterator[bytes]:
    """Without end, no two alike, in names of models and fields, in texts, in headers, in what is broken."""
    rng = random.Random(5)
    for number in itertools.count():
        body = bytearray(rng.choice(fuzz_bodies.SEEDS)[1:])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(body))
            odd = rng.choice(
                [b"", b"{", b"]", b'"', b",", b"null", b"\xff", b'"n%d":1,' % number, b"%d" % number]
            )
            body[at : at + rng.choice([0, 1, 8])] = odd
        if number % 3 == 0:
            body = body.replace(b'"model":"', b'"model":"%d-' % number)
        path, more = rng.choice(PATHS), b""
        if number % 5 == 0:
            path, more = b"/%d" % number, b"x-request-id: %d\r\nx-%d: a\r\n" % (number, number)
        yield b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (path, more, len(body)) + body


@pytest.mark.proves(
    "ten thousand bad requests, no two alike",
    caller="4xx each time; the memory is what it was before",
    kind="attack",
)
def test_bad_requests_leave_nothing_behind() -> None:
    """In what Python has allocated, which no allocator's habits blur."""
    memory = InMemory(Forgetful())
    callers = Callers(memory, memory.calls, LimitsSettings())
    statuses = dict.fromkeys((b"200", b"400", b"404", b"422"), 0)
    requests = bad_requests()

    def send(count: int) -> int:
        for request in itertools.islice(requests, count):
            statuses[callers.answers(request, 0)[9:12]] += 1
        gc.collect()
        return sys.getallocatedblocks()

    before = send(WARM)
    after = send(MEASURED)

    memory.close()
    memory.loop.close()
    assert after - before < MEASURED / 5
    assert statuses[b"400"] > MEASURED / 4
    assert min(statuses.values()) > 50

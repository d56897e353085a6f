"""An input that kills servers is told by its fingerprint, once."""

from gateway.core.events import Event, InputRefused
from gateway.core.lanes import BatchKey
from gateway.core.quarantine import REFUSED_S, fingerprint
from gateway.messages import Task
from tests.fakes.time import fake_time
from tests.pool.pools import ask, failure, running
from tests.pool.test_killers import POISON, Mortal


@fake_time
async def test_an_input_that_is_refused_is_told_once_by_its_fingerprint() -> None:
    events: list[Event] = []
    async with running(Mortal(latency_s=0.125), "abcde", events=events) as pool:
        for _ in range(3):
            await failure(ask(pool, ["good", POISON]))

    refused = [event for event in events if isinstance(event, InputRefused)]
    print_ = fingerprint(BatchKey(Task.EMBED), POISON).hex()
    assert [(event.fingerprint, event.seconds) for event in refused] == [(print_, REFUSED_S)]

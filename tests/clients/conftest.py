"""A real Infinity with the models that LiteLLM's page names, and gateways with a key and without."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.api.caller import Caller
from tests.clients.expected import Expected
from tests.clients.inputs import EMBEDDER, RAW_RERANKER, RERANKER
from tests.clients.running import KEY, Clients, gateway_environ
from tests.end_to_end.configs import entry, written
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel, model_dir


@pytest.fixture(scope="package")
def infinity() -> Iterator[RealInfinity]:
    models = [ServedModel(EMBEDDER, model_dir("bert")), ServedModel(RERANKER, model_dir("cross"))]
    with RealInfinity(models) as server:
        yield server


@pytest.fixture(scope="package")
def config(infinity: RealInfinity) -> dict[str, Any]:
    """Two models by their names on the server, and by those that LiteLLM's page gives them."""
    base = [infinity.url]
    return {
        "model_list": [
            entry(EMBEDDER, base),
            entry("custom-infinity-embedding", base, model=EMBEDDER),
            entry(RERANKER, base),
            entry("custom-infinity-rerank", base, model=RERANKER),
            entry(RAW_RERANKER, base, model=RERANKER, raw_scores=True),
        ],
        # TEI's clients name none.
        "gateway": {"default_models": {"embed": EMBEDDER, "rerank": RERANKER}},
    }


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def gateways(
    config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """With a key and without."""
    directory: Path = tmp_path_factory.mktemp("clients")
    keyed = {**config, "general_settings": {"master_key": KEY}}
    files = (written(directory / "keyed.yaml", keyed), written(directory / "open.yaml", config))
    async with AsyncExitStack() as stack:
        with_key, without = [await stack.enter_async_context(GatewayProcess(config=file)) for file in files]
        for gateway in (with_key, without):
            await gateway.wait_ready(len(config["model_list"]))
        yield with_key, without


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def clients(gateways: tuple[GatewayProcess, GatewayProcess]) -> Clients:
    keyed, without = gateways
    return Clients(gateway_environ(keyed.url, without.url))


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def expected(infinity: RealInfinity, config: dict[str, Any]) -> Expected:
    async with Caller(infinity.url) as direct:
        return await Expected.asked(direct, {entry["model_name"] for entry in config["model_list"]})

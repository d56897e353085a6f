"""`INFINITY_API_BASE=… infinity-gateway serve`: no file, models learned from the servers."""

import asyncio
import socket

from tests.api.caller import Caller
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity, ServedModel

SERVERS_KEY, CALLERS_KEY = "sk-the-servers", "sk-the-callers"


def debug_server() -> RealInfinity:
    """Infinity without torch, which starts in two seconds; its vectors are 13 times the text's length."""
    return RealInfinity([ServedModel("debug", batch_size=16)], engine="debugengine", api_key=SERVERS_KEY)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


async def test_servers_are_learned_and_one_that_comes_later_is_taken_in() -> None:
    """Two addresses, one server: calls are answered. The other gets its part when it comes, as it is."""
    late = debug_server()
    late.port = free_port()
    async with debug_server() as early:
        environ = {
            "INFINITY_API_BASE": f"{early.url}/, {late.url}",
            "INFINITY_API_KEY": SERVERS_KEY,
            "GATEWAY_MASTER_KEY": CALLERS_KEY,
        }
        async with (
            GatewayProcess(environ=environ) as gateway,
            Caller(gateway.url, Authorization=f"Bearer {CALLERS_KEY}") as caller,
        ):
            await gateway.wait_ready(1)
            alone = [await caller.embed("a" * i, None) for i in (1, 5)]
            listed = await caller.get("/v1/models")
            stranger = await caller.post(
                "/v1/embeddings", {"input": "a"}, Authorization=f"Bearer {SERVERS_KEY}"
            )
            async with late:
                await gateway.wait_ready(2)
                together = await asyncio.gather(
                    *(caller.embed(["a" * i] * 4, "debug") for i in range(1, 101))
                )
                samples = await caller.samples()

    assert [reply.vectors for reply in alone] == [[[1.0] * 13], [[5.0] * 13]]
    assert [model["id"] for model in listed.body["data"]] == ["debug"]
    assert stranger.error(401)
    assert [reply.vectors for reply in together] == [[[float(i)] * 13] * 4 for i in range(1, 101)]
    for server in (early, late):
        assert samples.total("batch_items_sum", deployment=f"127.0.0.1:{server.port}") > 20
    # The size of a batch is the servers' own.
    assert samples.total("batch_items_bucket", le="16.0") == samples.total("batch_items_count")
    told = [line for line in gateway.output if f"127.0.0.1:{late.port}" in line]
    assert any("is not up" in line for line in told)
    assert any("is up and serves debug" in line for line in told)
    assert not any(key in line for line in gateway.output for key in (SERVERS_KEY, CALLERS_KEY))

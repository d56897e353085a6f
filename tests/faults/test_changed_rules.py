"""Who may call, and how much, is changed under callers who stay connected, and over both ways."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.reload import ConfigFile
from tests.api.caller import Caller, raw_exchange
from tests.api.waiting import until
from tests.fakes.faults import Fault, contains
from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.gateway_in_process import GatewayInProcess

MODELS = ("bert", "other")
DEEP = {"user": [[[[["x"]]]]]}
"""In a field that no server gets."""


class Changing:
    """A gateway whose configuration is a file, and a caller with connections that last."""

    def __init__(self, file: Path, fake: FakeInfinity, gateway: GatewayInProcess, caller: Caller) -> None:
        self.fake = fake
        self._file = file
        self._gateway = gateway
        self._caller = caller

    async def become(self, **settings: Any) -> None:
        """Those of the section gateway; done once they count."""
        config = self._gateway.runtime.config
        self._file.write_text(content(self.fake, **settings))
        self._gateway.runtime.reload()
        await until(lambda: self._gateway.runtime.config is not config)

    async def status(self, key: str, given: Any = "one", model: str = "bert", **fields: Any) -> int:
        """Of a call straight to its endpoint, and of another one through ASGI."""
        body = {"model": model, "input": given, **fields}
        reply = await self._caller.post("/v1/embeddings", body, Authorization=f"Bearer {key}")
        through_asgi = await self._ordinary(key, body)
        assert (reply.status, reply.headers.get("x-ratelimit-limit-requests")) == through_asgi
        return reply.status

    async def _ordinary(self, key: str, body: dict[str, Any]) -> tuple[int, str | None]:
        raw = json.dumps(body).encode()
        lines = "POST /v1/embeddings HTTP/1.0", f"Authorization: Bearer {key}", f"Content-Length: {len(raw)}"
        answer = await raw_exchange(self._gateway.port, "\r\n".join((*lines, "", "")).encode() + raw)
        found = re.search(rb"x-ratelimit-limit-requests: (\d+)", answer)
        return int(answer.split(b" ")[1]), found[1].decode() if found else None


def content(fake: FakeInfinity, **gateway: Any) -> str:
    models = [
        {"model_name": name, "litellm_params": {"model": f"infinity/{name}", "api_base": fake.url}}
        for name in MODELS
    ]
    return json.dumps({"model_list": models, "gateway": gateway})


def ann(**rules: Any) -> dict[str, Any]:
    return {"name": "ann", "key": "sk-ann", **rules}


BOB = {"name": "bob", "key": "sk-bob"}


@asynccontextmanager
async def changing(folder: Path, **settings: Any) -> AsyncIterator[Changing]:
    file = folder / "gateway.json"
    async with FakeInfinity([FakeModel(name) for name in MODELS]) as fake:
        file.write_text(content(fake, **settings))
        watched = ConfigFile(file, {})
        async with (
            GatewayInProcess(watched.load(), file=watched) as gateway,
            Caller(gateway.url) as caller,
        ):
            yield Changing(file, fake, gateway, caller)


@pytest.mark.proves(
    "a key is taken out, changed or limited by a changed configuration, while its owner stays connected",
    caller="from then on 401, 403 or 429 on the connection that was let in; nobody else notices",
    kind="attack",
)
async def test_what_keys_may_changes_at_once(tmp_path: Path) -> None:
    """Each call twice, one each way."""
    async with changing(tmp_path, keys=[ann(), BOB]) as gateway:
        assert await gateway.status("sk-ann") == 200
        assert await gateway.status("sk-bob") == 200
        assert await gateway.status("sk-new") == 401

        await gateway.become(keys=[ann(key="sk-new")])
        assert await gateway.status("sk-ann") == 401
        assert await gateway.status("sk-bob") == 401
        assert await gateway.status("sk-new") == 200

        await gateway.become(keys=[ann(models=["other"]), BOB])
        assert await gateway.status("sk-ann") == 403
        assert await gateway.status("sk-ann", model="other") == 200
        assert await gateway.status("sk-bob") == 200
        assert await gateway.status("sk-new") == 401

        await gateway.become(keys=[ann(requests_per_minute=2), BOB])
        assert await gateway.status("sk-ann") == 200
        assert await gateway.status("sk-ann") == 429
        await gateway.become(keys=[ann(requests_per_minute=2, models=["bert"]), BOB])
        assert await gateway.status("sk-ann") == 429  # a change elsewhere gives nothing back
        await gateway.become(keys=[ann(requests_per_minute=100), BOB])
        assert await gateway.status("sk-ann") == 200

        await gateway.become(keys=[ann(items_per_minute=4), BOB])
        assert await gateway.status("sk-ann", ["a", "b"]) == 200
        assert await gateway.status("sk-ann", ["a", "b"]) == 429
        await gateway.become(keys=[ann(), BOB])
        assert await gateway.status("sk-ann", ["a"] * 100) == 200


async def test_calls_under_way_count_under_the_new_rules(tmp_path: Path) -> None:
    """They are answered, and give their place back, once."""
    gate = asyncio.Event()
    async with changing(tmp_path, keys=[ann(), BOB]) as gateway:
        gateway.fake.faults.append(Fault(delay=gate, when=contains("slow")))
        slow = [asyncio.create_task(gateway.status("sk-ann", f"slow {n}", "other")) for n in range(2)]
        await until(lambda: any("slow" in text for batch in gateway.fake.batches for text in batch))
        await gateway.become(keys=[ann(concurrency=1), BOB])
        assert await gateway.status("sk-ann") == 429
        assert await gateway.status("sk-bob") == 200
        await gateway.become(keys=[BOB])
        await gateway.become(keys=[ann(concurrency=100), BOB])
        gate.set()
        assert await asyncio.gather(*slow) == [200, 200]

        await gateway.become(keys=[ann(concurrency=1), BOB])
        for _ in range(5):
            assert await gateway.status("sk-ann") == 200


LIMITS: list[tuple[dict[str, int], dict[str, Any], int]] = [
    ({"items_max": 3}, {"given": ["a"] * 4}, 400),
    ({"text_chars_max": 20}, {"given": "x" * 21}, 400),
    ({"body_bytes_max": 2000}, {"given": ["x" * 500] * 4}, 413),
    ({"json_depth_max": 4}, {"given": "a", **DEEP}, 400),
]


@pytest.mark.parametrize(("limits", "call", "status"), LIMITS, ids=[next(iter(each[0])) for each in LIMITS])
async def test_limits_change_at_once(
    tmp_path: Path, limits: dict[str, int], call: dict[str, Any], status: int
) -> None:
    """Down and up again."""
    async with changing(tmp_path, keys=[BOB]) as gateway:
        assert await gateway.status("sk-bob", **call) == 200
        for _ in range(2):
            await gateway.become(keys=[BOB], limits=limits)
            assert await gateway.status("sk-bob", **call) == status
            assert await gateway.status("sk-bob") == 200
            await gateway.become(keys=[BOB])
            assert await gateway.status("sk-bob", **call) == 200

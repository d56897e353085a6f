"""A line for each call, or for a share of them, from a gateway over HTTP."""

import asyncio
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.settings import LoggingSettings
from gateway.observability.calls import Calls
from gateway.observability.lines import Line, Lines
from tests.api.caller import Caller
from tests.api.configs import config, named_key, pool
from tests.api.ways import by_asgi, through
from tests.fakes.infinity import FakeInfinity, Fault
from tests.gateway_in_process import GatewayInProcess

TEXT, KEY = "a text that is nobody's business", "sk-secret"
BOTH = pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "asgi"])


@contextmanager
def lines_to(path: Path) -> Iterator[Lines]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Lines(fd) as lines:
        yield lines
    os.close(fd)


def calls_in(path: Path) -> list[dict[str, Any]]:
    assert TEXT not in path.read_text()
    assert KEY not in path.read_text()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("event") == "call" and line.pop("ts") for line in found)
    return found


@contextmanager
def way(is_direct: bool) -> Iterator[None]:
    if is_direct:
        yield
    else:
        with through(by_asgi):
            yield


@BOTH
async def test_a_call_has_a_line_that_says_all_of_it_but_its_text(tmp_path: Path, is_direct: bool) -> None:
    path = tmp_path / "log"
    with way(is_direct), lines_to(path) as lines:
        async with FakeInfinity() as fake:
            settings = config(
                pool("bert", fake), logging=LoggingSettings(access_log=1.0), keys=(named_key("rag", KEY),)
            )
            async with (
                GatewayInProcess(settings, lines=lines) as gateway,
                Caller(gateway.url, authorization=f"Bearer {KEY}") as caller,
            ):
                body = {"model": "bert", "input": [TEXT, "b"]}
                right = await caller.post("/v1/embeddings", body, x_request_id="mine")
                wrong = await caller.post("/embeddings", {"model": "bert", "input": 7})
                unknown = await caller.post("/v1/embeddings", body, authorization="Bearer sk-secret-other")
                fake.faults.append(Fault(status=500, raw=json.dumps({"error": {"message": TEXT}}).encode()))
                failed = await caller.embed(TEXT)

    assert [reply.status for reply in (right, wrong, unknown, failed)] == [200, 400, 401, 502]
    first, second, third, fourth = calls_in(path)
    times = {name: first.pop(name) for name in ("duration_ms", "queue_ms", "upstream_ms")}
    assert first == {
        "level": "INFO",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
        "request_id": "mine",
        "model": "bert",
        "key": "rag",
        "items": 2,
        "tokens": right.body["usage"]["prompt_tokens"],
        "bytes_in": len(json.dumps(body)),
        "bytes_out": len(right.raw),
    }
    assert 0 < times["upstream_ms"] < times["duration_ms"]
    assert times["queue_ms"] + times["upstream_ms"] <= times["duration_ms"]
    assert (second["route"], second["status"], second["items"]) == ("/embeddings", 400, 0)
    assert second["request_id"] == wrong.headers["x-request-id"]
    assert (third["status"], third["key"], third["model"]) == (401, "", "")
    assert (fourth["status"], fourth["key"], fourth["model"], fourth["items"]) == (502, "rag", "bert", 1)


@BOTH
async def test_of_a_caller_who_hangs_up_there_is_a_line(tmp_path: Path, is_direct: bool) -> None:
    path = tmp_path / "log"
    with way(is_direct), lines_to(path) as lines:
        async with FakeInfinity() as fake:
            settings = config(pool("bert", fake), logging=LoggingSettings(access_log=1.0))
            async with GatewayInProcess(settings, lines=lines) as gateway, Caller(gateway.url) as watcher:
                fake.faults.append(Fault(hang=True))
                async with Caller(gateway.url) as caller:
                    task = asyncio.create_task(caller.embed(TEXT))
                    while [TEXT] not in fake.batches:
                        await fake.received(len(fake.batches) + 1)
                    task.cancel()
                await watcher.samples_when("requests_total", 1, status="499")

    (line,) = calls_in(path)
    assert (line["status"], line["items"], line["bytes_out"]) == (499, 1, 0)


def counted(share: float, *statuses: int) -> int:
    calls = Calls(None, share, None, random.Random(1))
    return sum(calls.draw(status) for status in statuses)


def test_a_share_of_the_calls_has_a_line() -> None:
    assert 60 < counted(0.01, *[200] * 10_000) < 140
    assert counted(1.0, *[200] * 100) == 100


def test_errors_have_one_in_any_case_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    calls = Calls(None, 1e-9, None, random.Random(1))

    assert sum(calls.draw(502) for _ in range(1_000)) == 100
    now[0] += 1
    assert sum(calls.draw(status) for status in (500, 503, 404, 429, 499, 200)) == 2
    assert counted(0.0, 500) == 0


async def test_without_it_nobody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with FakeInfinity() as fake:
        settings = config(pool("bert", fake))
        with lines_to(path) as lines:
            async with GatewayInProcess(settings, lines=lines) as gateway, Caller(gateway.url) as caller:
                assert (await caller.embed(TEXT)).status == 200
                assert gateway.runtime.calls is None

    assert path.read_bytes() == b""


async def test_dropped_lines_show_in_the_metrics(tmp_path: Path) -> None:
    with lines_to(tmp_path / "log") as lines:
        async with GatewayInProcess(config(), lines=lines) as gateway, Caller(gateway.url) as caller:
            for _ in range(3):
                lines.put(Line(0.0, "INFO", "call", "", {}), most=0)
            samples = await caller.samples()

    assert samples.value("log_lines_dropped_total") == 3

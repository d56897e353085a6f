"""`GET /metrics`: what Prometheus reads, by the names of the contract."""

import asyncio
import subprocess

from gateway.core.settings import Secret
from tests.api.caller import Caller
from tests.api.configs import config, pool, preferring
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess
from tests.monitoring.processes import tool

EMBED = "/v1/embeddings"

# By DESIGN.md "Metrics"; what a later part of the project brings is not here yet.
NAMES = {
    "requests_total": "counter",
    "request_duration_seconds": "histogram",
    "request_items": "histogram",
    "queue_wait_seconds": "histogram",
    "overhead_seconds": "histogram",
    "in_flight_requests": "gauge",
    "queued_items": "gauge",
    "batch_items": "histogram",
    "batch_calls": "histogram",
    "batch_fill_ratio": "histogram",
    "batch_padding_ratio": "histogram",
    "upstream_duration_seconds": "histogram",
    "upstream_throughput_items_per_second": "histogram",
    "upstream_requests_total": "counter",
    "upstream_bad_answers_total": "counter",
    "deployment_up": "gauge",
    "deployment_different_vectors": "gauge",
    "breaker_state": "gauge",
    "deployment_in_flight_items": "gauge",
    "deployment_concurrency_limit": "gauge",
    "deployment_busy_ratio": "gauge",
    "deployment_service_seconds": "gauge",
    "deduplicated_items_total": "counter",
    "cache_items_total": "counter",
    "retries_total": "counter",
    "hedges_total": "counter",
    "fallbacks_total": "counter",
    "rejected_total": "counter",
    "items_total": "counter",
    "tokens_total": "counter",
    "discovered_addresses": "gauge",
    "look_up_failures_total": "counter",
    "config_reload_failures_total": "counter",
    "log_lines_dropped_total": "counter",
    "event_loop_lag_seconds": "histogram",
    "event_loop_tasks": "gauge",
    "build_info": "gauge",
}


async def test_servers_that_are_not_up_show() -> None:
    """0 for the one that is gone, 1 for the one that is there."""
    async with FakeInfinity() as up, FakeInfinity() as down:
        await down.stop()
        settings = config(pool("bert", up, down))
        async with GatewayInProcess(settings, deployments=1) as gateway, Caller(gateway.url) as caller:
            samples = await caller.samples()

    assert samples.value("deployment_up", model="bert", deployment=f"127.0.0.1:{up.port}") == 1
    assert samples.value("deployment_up", model="bert", deployment=f"127.0.0.1:{down.port}") == 0
    assert len(samples.series("deployment_up")) == 2


async def test_the_text_is_what_prometheus_expects() -> None:
    """promtool finds nothing; names and types are those of the contract, and no counter has a `_created`."""
    async with FakeInfinity() as first, FakeInfinity() as second:
        settings = config(preferring("bert", first, second), pool("cross", first))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            first.faults.append(Fault(edit=lambda answer: answer["data"].clear(), times=1))
            await caller.embed(["a", "b"])
            await caller.rerank("q", ["a"])
            await caller.post(EMBED, b"{")
            reply = await caller.get("/metrics")

    checked = await asyncio.to_thread(
        subprocess.run,
        [tool("promtool"), "check", "metrics"],
        input=reply.raw,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = reply.raw.decode()
    types = dict(line.split(" ")[2:4] for line in text.splitlines() if line.startswith("# TYPE "))
    assert types == {f"infinity_gateway_{name}": kind for name, kind in NAMES.items()}
    assert "_created" not in text


async def test_metrics_need_no_key_and_hold_no_secret() -> None:
    """Prometheus scrapes them from inside the cluster."""
    async with FakeInfinity() as fake:
        settings = config(pool("bert", fake), master_key=Secret("sk-master"))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            samples = await caller.samples()

    assert "sk-master" not in samples.text

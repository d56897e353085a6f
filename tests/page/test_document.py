"""What the page is made of, and what /status tells it, without a browser."""

import base64
import hashlib
import re

from gateway.core.settings import Secret
from tests.api.caller import Caller
from tests.api.configs import config, pool
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def test_the_document_is_open_and_the_same_for_all(fake_infinity: FakeInfinity) -> None:
    """It tells nothing of models or servers: whoever has no key sees a form."""
    options = {"master_key": Secret("sk-master"), "open_routes": frozenset[str]()}
    async with (
        GatewayInProcess(config(pool("bert", fake_infinity), **options)) as keyed,
        GatewayInProcess(config(pool("cross", fake_infinity))) as free,
        Caller(keyed.url) as one,
        Caller(free.url) as two,
    ):
        reply, other = await one.get("/"), await two.get("/")
        assert (await one.get("/status")).status == 401

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.raw == other.raw
    assert b"127.0.0.1" not in reply.raw
    assert b"bert" not in reply.raw


async def test_its_policy_allows_what_it_holds_and_nothing_else(fake_infinity: FakeInfinity) -> None:
    async with (
        GatewayInProcess(config(pool("bert", fake_infinity))) as gateway,
        Caller(gateway.url) as caller,
    ):
        reply = await caller.get("/")
    text = reply.raw.decode()
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))

    assert policy == {
        "default-src": "'none'",
        "style-src": hash_of(style),
        "script-src": hash_of(script),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert len(script) > 1000
    assert len(style) > 1000
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)


async def test_who_has_it_gets_it_once(fake_infinity: FakeInfinity) -> None:
    """It is asked for each time, so that a new version is seen at once."""
    async with (
        GatewayInProcess(config(pool("bert", fake_infinity))) as gateway,
        Caller(gateway.url) as caller,
    ):
        reply = await caller.get("/")
        again = await caller.get("/", If_None_Match=reply.headers["ETag"])
        of_old = await caller.get("/", If_None_Match='"other"')
        status = await caller.get("/status")

    assert reply.headers["Cache-Control"] == "no-cache"
    assert (again.status, again.raw) == (304, b"")
    assert (of_old.status, of_old.raw) == (200, reply.raw)
    assert status.headers["Cache-Control"] == "no-store"


async def test_status_counts_what_is_done(fake_infinity: FakeInfinity) -> None:
    """Between two looks: calls, items, statuses, and batches by outcome, in the histograms too."""
    async with (
        GatewayInProcess(config(pool("bert", fake_infinity), pool("cross", fake_infinity))) as gateway,
        Caller(gateway.url) as caller,
    ):
        before = (await caller.get("/status")).body
        await caller.embed(["one", "two", "three"])
        await caller.embed("four")
        await caller.post("/v1/embeddings", b"{")
        fake_infinity.faults.append(Fault(status=500, times=1))
        await caller.embed("five")
        after = (await caller.get("/status")).body

    assert before["gateway"]["id"] == after["gateway"]["id"]
    assert after["gateway"]["time_s"] > before["gateway"]["time_s"]
    assert not after["gateway"]["draining"]
    assert before["requests"]["statuses"] == {}
    assert sum(after["requests"]["statuses"].values()) == 4
    assert after["requests"]["statuses"]["400"] == 1
    assert sum(after["requests"]["seconds"]["counts"]) == 4
    assert len(after["requests"]["seconds"]["counts"]) == len(after["bounds"]["seconds"]) + 1
    bert, cross = after["models"]
    (server,) = bert["deployments"]
    assert bert["calls"] == sum(bert["queue_seconds"]["counts"])
    assert bert["items"] == (4 if bert["calls"] == 2 else 5)
    assert sum(server["batches"].values()) == sum(server["batch_items"]["counts"])
    assert server["batches"]["success"] == bert["calls"]
    assert server["batch_items"]["sum"] == 5
    assert len(server["batch_items"]["counts"]) == len(after["bounds"]["items"]) + 1
    assert sum(server["batch_seconds"]["counts"]) == sum(server["batches"].values())
    assert server["batch_seconds"]["sum"] > 0
    assert cross["calls"] == cross["items"] == 0
    assert cross["deployments"][0]["batches"] == {}

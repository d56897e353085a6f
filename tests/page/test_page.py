"""The page at /, in a real browser."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count, cycle
from typing import Any

from aiohttp import ClientSession, web

from gateway.core.settings import DeploymentSettings, HealthSettings, PoolSettings, Secret
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, deployment, engine, named_key, pool
from tests.api.waiting import until
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, ServiceTime
from tests.gateway_in_process import GatewayInProcess
from tests.page.browser import Tab

pytestmark = SHARED

BERT = (FakeModel("bert"),)
STATES = "[...document.querySelectorAll('tbody td:nth-child(2) b')].map((state) => state.innerText)"


def figure(of: str) -> str:
    """The expression for a figure of the page; NaN while there is none."""
    return f"parseFloat(document.getElementById('{of}').innerText.replaceAll(',', ''))"


@asynccontextmanager
async def servers(*models: FakeModel, number: int = 1) -> AsyncIterator[list[FakeInfinity]]:
    fakes = [FakeInfinity(models or BERT, service=ServiceTime(o=0.005)) for _ in range(number)]
    try:
        for fake in fakes:
            await fake.start()
        yield fakes
    finally:
        for fake in fakes:
            await fake.close()


@asynccontextmanager
async def load(gateway: GatewayInProcess, callers: int = 4) -> AsyncIterator[None]:
    """Calls of three texts without end."""
    numbers = count()
    enough = asyncio.Event()

    async def call(caller: Caller) -> None:
        while not enough.is_set():
            await caller.embed([f"text {next(numbers)}" for _ in range(3)])

    async with Caller(gateway.url) as caller, asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(call(caller))
        try:
            yield
        finally:
            enough.set()


async def test_the_figures_move_under_load(tab: Tab) -> None:
    """Rates, percentiles, batches and the row of each server; and they go back to nothing."""
    async with servers(number=2) as fakes, GatewayInProcess(config(pool("bert", *fakes))) as gateway:
        await tab.go(gateway.url)
        assert await tab.until("document.getElementById('calls').innerText == '0'")
        async with load(gateway):
            await tab.until(f"{figure('calls')} > 10 && {figure('items')} > 2.5 * {figure('calls')}")
            await tab.until(f"0 < {figure('p50')} && {figure('p50')} <= {figure('p95')}")
            await tab.until(f"{figure('batch')} >= 1")
            rates = (
                "[...document.querySelectorAll('[data-of=rate]')].map((rate) => parseFloat(rate.innerText))"
            )
            await tab.until(f"{rates}.length == 2 && {rates}.every((rate) => rate > 0)")
            assert "2 of 2 servers up" in await tab.text(".heading p")
            assert await tab.eval(
                "document.querySelector('#calls-line .stroke').getAttribute('d').length > 20"
            )
        await tab.until(f"{figure('calls')} == 0", within_s=15)
        assert await tab.text("#errors") == "0"
        assert tab.problems == []


async def test_a_killed_server_turns_red_and_comes_back(tab: Tab) -> None:
    """In words as well as in colour, with the reason, at the top and in its row."""
    async with servers(number=2) as fakes, GatewayInProcess(config(pool("bert", *fakes))) as gateway:
        await tab.go(gateway.url)
        await tab.until(f"{STATES}.join() == 'up,up'")
        assert await tab.text("#state") == "Serving, 2 of 2 servers up"
        assert not await tab.text("#attention")
        good = await tab.eval("getComputedStyle(document.querySelector('td b')).color")

        await fakes[0].stop()
        async with Caller(gateway.url) as caller:
            await asyncio.gather(*(caller.embed(f"text {i}") for i in range(20)))
        await tab.until(f"{STATES}.join() == 'down,up'")
        red, green, blue = await tab.eval(
            "getComputedStyle(document.querySelector('td b')).color.match(/\\d+/g).map(Number)"
        )
        assert red > 2 * max(green, blue)
        assert "connection refused" in await tab.text("tbody th")
        assert "breaker open" in await tab.text("tbody td")
        name = fakes[0].url.removeprefix("http://")
        assert f"{name} down" in await tab.text("#attention")
        assert await tab.text("#state") == "Serving, 1 of 2 servers up"
        assert await tab.eval("document.title") == "Serving, 1 of 2 servers up · infinity-gateway"

        await fakes[1].stop()
        async with Caller(gateway.url) as caller:
            await caller.embed("one")
        await tab.until("document.getElementById('state').innerText == 'No server of bert is up'")

        for fake in fakes:
            await fake.start()
        await tab.until(f"{STATES}.join() == 'up,up'")
        assert await tab.eval("getComputedStyle(document.querySelector('td b')).color") == good
        assert not await tab.text("#attention")
        assert await tab.eval("document.title") == "infinity-gateway"
        assert tab.problems == []


async def test_a_server_with_other_vectors_is_told_of(tab: Tab) -> None:
    """It answers, and still gets no work: that has to be said."""
    async with servers() as [fake], servers(FakeModel("bert", seed="other")) as [other]:
        pools = pool("bert", fake, other)
        other.faults.append(Fault(status=503, times=5))  # the first there sets what the vectors are
        async with GatewayInProcess(config(pools), deployments=1) as gateway:
            await tab.go(gateway.url)
            await tab.until(f"{STATES}.join() == 'up,other vectors'")
            assert "does not answer a fixed text as" in await tab.text("#attention")


async def test_a_key_is_asked_for(tab: Tab) -> None:
    """A wrong one is told; the right one goes out as bearer, never in an address, and lasts for the tab."""
    keys = (named_key("some", "sk-some", models=("bert",)),)
    async with (
        servers() as [fake],
        GatewayInProcess(config(pool("bert", fake), master_key=Secret("sk-master"), keys=keys)) as gateway,
    ):
        await tab.go(gateway.url)
        await tab.until("!document.getElementById('key-form').hidden")
        assert await tab.eval("document.activeElement.id") == "key"
        assert not await tab.text("#board")
        assert not await tab.text("#key-problem")
        for wrong, told in (
            ("sk-wrong", "not valid"),
            ("sk-\u03bb", "not valid"),
            ("sk-some", "for some models"),
        ):
            await tab.eval("document.getElementById('key').select()")
            await tab.write(wrong)
            await tab.press("Enter", "\r")
            await tab.until(f"document.getElementById('key-problem').innerText.includes('{told}')")
            await tab.eval("document.getElementById('key-problem').textContent = ''")

        await tab.eval("document.getElementById('key').select()")
        await tab.write("sk-master")
        await tab.press("Enter", "\r")
        await tab.until(f"{STATES}.join() == 'up'")
        assert not await tab.text("#key-form")
        assert await tab.eval("document.getElementById('key').value") == ""
        await tab.go(f"{gateway.url}/?again")
        await tab.until(f"{STATES}.join() == 'up'")
        sent = {request["headers"].get("Authorization") for request in tab.requests}
        assert "Bearer sk-master" in sent
        assert not any("sk-" in request["url"] for request in tab.requests)
        assert await tab.eval("document.cookie + JSON.stringify(localStorage)") == "{}"

        await tab.eval("document.getElementById('forget').click()")
        await tab.until("!document.getElementById('key-form').hidden")
        assert "sk-" not in await tab.eval("JSON.stringify(sessionStorage)")
        await tab.go(f"{gateway.url}/?anew")
        await tab.until("!document.getElementById('key-form').hidden")
        # Chromium itself tells of each 401 and 403.
        assert {problem.partition(":")[0] for problem in tab.problems} == {"Failed to load resource"}


async def connect(tab: Tab, *, online: bool) -> None:
    speed = -1 if online else 0
    await tab.send(
        "Network.emulateNetworkConditions",
        offline=not online,
        latency=0,
        downloadThroughput=speed,
        uploadThroughput=speed,
    )


async def test_a_gateway_that_does_not_answer_is_told_of(tab: Tab) -> None:
    """What is shown is then of before, and looks like it."""
    async with servers() as [fake], GatewayInProcess(config(pool("bert", fake))) as gateway:
        await tab.go(gateway.url)
        await tab.until(f"{STATES}.join() == 'up'")
        await connect(tab, online=False)
        await tab.until("document.getElementById('state').innerText == 'The gateway does not answer'")
        assert (await tab.text("#identity")).startswith("last answer at ")
        assert await tab.eval("document.body.classList.contains('stale')")
        await connect(tab, online=True)
        await tab.until("document.getElementById('state').innerText == 'Serving, 1 of 1 server up'")
        assert not await tab.eval("document.body.classList.contains('stale')")


async def test_before_there_are_servers(tab: Tab) -> None:
    """Which ones are asked, and why they have not answered; then they are there."""
    async with servers() as [fake]:
        await fake.stop()
        settings = engine(servers=(DeploymentSettings("infinity-0", fake.url, ""),))
        async with GatewayInProcess(config(servers=settings.servers), deployments=0) as gateway:
            await tab.go(gateway.url)
            await tab.until("document.getElementById('state').innerText.startsWith('Starting')")
            assert "No servers yet" in await tab.text("#empty")
            told = "document.getElementById('attention').innerText"
            await tab.until(f"/infinity-0 starting.*connection refused/.test({told})")
            await fake.start()
            await tab.until(f"{STATES}.join() == 'up'")
            assert not await tab.text("#empty")


WIDEST = [["calls", "99,999"], ["items", "99,999"], ["queue", "32,000"], ["errors", "99,999"]]


async def test_it_fits_and_can_be_read(tab: Tab) -> None:
    """At every width, in both schemes: nothing scrolls sideways or is cut, and axe-core has no objection."""
    cut = "({scrollWidth, clientWidth}) => clientWidth && scrollWidth > clientWidth + 1"
    boxes = "[...document.querySelectorAll('main dt, main dd:not([aria-hidden]), tbody *, p')]"
    # As wide as they get, in the same turn, since the next look at the gateway writes them anew.
    wide = f"for (const [id, text] of {WIDEST}) document.getElementById(id).textContent = text;"
    async with (
        servers(*BERT, FakeModel("a-reranker-with-a-very-long-name/v2", ("rerank",)), number=2) as fakes,
        GatewayInProcess(config(*(pool(model.name, *fakes) for model in fakes[0].models))) as gateway,
    ):
        await tab.prefer("light", "reduce")
        await tab.go(gateway.url)
        await fakes[0].stop()
        async with load(gateway):
            await tab.until(f"{STATES}.includes('down')")
            await tab.until(f"{figure('p99')} > 0")
        await tab.eval("document.querySelector('details').open = true")
        for scheme in ("light", "dark"):
            await tab.prefer(scheme, "reduce")
            back = await tab.eval("getComputedStyle(document.body).backgroundColor")
            assert back == ("rgb(15, 18, 23)" if scheme == "dark" else "rgb(245, 246, 248)")
            for width in (320, 360, 390, 640, 768, 961, 1024, 1280, 1440, 1600):
                await tab.resize(width, 800)
                assert await tab.eval("document.documentElement.scrollWidth") <= width
                found = f"{wide} return {boxes}.filter({cut}).map((each) => each.outerHTML)"
                assert await tab.eval(f"(() => {{ {found} }})()") == [], width
                if width in (320, 1280):
                    assert await tab.violations() == []
        assert tab.problems == []


async def test_the_form_for_the_key_can_be_read(tab: Tab) -> None:
    async with (
        servers() as [fake],
        GatewayInProcess(config(pool("bert", fake), master_key=Secret("sk-master"))) as gateway,
    ):
        await tab.resize(320, 640)
        await tab.go(gateway.url)
        await tab.until("!document.getElementById('key-form').hidden")
        assert await tab.violations() == []
        assert await tab.eval("document.documentElement.scrollWidth") <= 320
        await tab.eval("document.getElementById('key-hint').style.color = '#ddd'")
        assert ["color-contrast" in each for each in await tab.violations()] == [True]  # so it does look


async def test_it_works_from_the_keyboard(tab: Tab) -> None:
    """The first stop leads past the head; the next pauses what moves, and has it move again."""
    async with servers() as [fake], GatewayInProcess(config(pool("bert", fake))) as gateway:
        await tab.go(gateway.url)
        await tab.until(f"{STATES}.join() == 'up'")
        await tab.press("Tab")
        assert await tab.eval("document.activeElement.className") == "skip"
        await tab.press("Tab")
        assert await tab.eval("document.activeElement.id") == "pause"
        await tab.press("Enter", "\r")
        assert await tab.text("#state") == "Paused"
        asked = len(tab.requests)
        assert await tab.text("#pause") == "Resume"
        async with load(gateway):
            await tab.eval("new Promise((done) => setTimeout(done, 1500))")
            assert len(tab.requests) == asked
            assert await tab.text("#calls") in ("0", "–")
            await tab.press("Enter", "\r")
            await tab.until(f"{figure('calls')} > 0")


async def test_it_asks_nobody_else(tab: Tab) -> None:
    """One document and its figures, from where it came itself."""
    async with servers() as [fake], GatewayInProcess(config(pool("bert", fake))) as gateway:
        await tab.go(gateway.url)
        await tab.until(f"{STATES}.join() == 'up'")

        asked = {request["url"] for request in tab.requests if not request["url"].startswith("data:")}
        assert asked == {f"{gateway.url}/", f"{gateway.url}/status"}


async def test_what_is_put_into_it_does_nothing(tab: Tab) -> None:
    """The policy lets no other script or style in, and no text turn into markup."""
    async with servers() as [fake], GatewayInProcess(config(pool("bert", fake))) as gateway:
        await tab.go(gateway.url)
        await tab.until(f"{STATES}.join() == 'up'")
        assert (
            await tab.eval(
                """(() => {
                const script = document.createElement("script");
                try { script.text = "window.harmed = true"; } catch { return "refused"; }
                document.body.append(script);
            })()"""
            )
            == "refused"
        )
        await tab.eval("document.body.append(document.createElement('script'))")
        refused = "(() => { try { document.body.innerHTML = '<b>'; } catch { return true; } })()"
        assert await tab.eval(refused)
        other = "fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')"
        assert await tab.eval(other) == "refused"
        assert any("Content Security Policy" in problem for problem in tab.problems)


async def test_two_hundred_servers_do_not_make_it_slow(tab: Tab) -> None:
    """A round takes the browser a part of a second, and the page is asked for less often."""
    async with servers() as [fake]:
        many = tuple(DeploymentSettings(f"infinity-{i}", fake.url, "bert") for i in range(200))
        calm = HealthSettings(probe_interval_s=5, silent_s_max=600)
        async with GatewayInProcess(config(PoolSettings("bert", many), health=calm)) as gateway:
            await tab.go(gateway.url)
            await tab.until(f"{STATES}.filter((state) => state == 'up').length == 200")
            await tab.send("Performance.enable")

            async def spent_s() -> float:
                metrics = await tab.send("Performance.getMetrics")
                values: dict[str, float] = {each["name"]: each["value"] for each in metrics["metrics"]}
                return sum(values[f"{what}Duration"] for what in ("Script", "Layout", "RecalcStyle"))

            async with load(gateway):
                began, began_s = len(tab.requests), await spent_s()
                await until(lambda: len(tab.requests) >= began + 2)
                took_s = await spent_s() - began_s
            assert took_s / 2 < 0.25
            assert tab.problems == []


async def test_several_gateways_behind_one_address_are_summed(tab: Tab) -> None:
    """They take turns in answering, and each counts for itself."""
    async with (
        servers() as fakes,
        GatewayInProcess(config(pool("bert", *fakes))) as one,
        GatewayInProcess(config(pool("bert", *fakes))) as two,
        ClientSession() as session,
    ):
        turns = cycle([one, two])

        async def handed_on(request: web.Request) -> web.Response:
            gateway = next(turns) if request.path == "/status" else one
            async with session.get(gateway.url + request.path) as answer:
                kept: Mapping[str, Any] = {
                    name: value
                    for name, value in answer.headers.items()
                    if name in ("Content-Type", "Content-Security-Policy")
                }
                return web.Response(body=await answer.read(), status=answer.status, headers=kept)

        application = web.Application()
        application.router.add_get("/{path:.*}", handed_on)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            await tab.go(f"http://127.0.0.1:{port}/")
            await tab.until("document.getElementById('identity').innerText.startsWith('2 gateways')")
            async with Caller(one.url) as first, Caller(two.url) as second:
                for caller, calls in ((first, 3), (second, 4)):
                    for _ in range(calls):
                        await caller.post("/v1/embeddings", b"{")
            await tab.until("document.getElementById('errors').innerText == '7'")
            assert await tab.text("#errors-note") == "400 ×\u00a07"
            assert await tab.text(".heading h2") == "bert"
            assert await tab.eval("document.querySelectorAll('tbody tr').length") == 1
        finally:
            await runner.cleanup()


async def test_a_deployment_of_the_configuration(tab: Tab) -> None:
    """A model all of whose servers are yet to answer is listed, as starting."""
    async with servers() as [fake]:
        await fake.stop()
        settings = PoolSettings("bert", (deployment(fake, "bert"),))
        async with GatewayInProcess(config(settings), deployments=0) as gateway:
            await tab.go(gateway.url)
            await tab.until(f"{STATES}.join() == 'starting'")

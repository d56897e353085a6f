"""`/openapi.json` is true: whatever it describes is asked for at random, and answered as it says."""

import asyncio
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.routing import Route

from gateway.api.app import call_endpoints, create_app
from gateway.api.documentation import render_openapi, render_page
from gateway.api.drain import Drain
from gateway.core.settings import LimitsSettings, RouterSettings
from gateway.messages import Task
from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pools_of
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

SPEC = render_openapi(LimitsSettings())
OPERATIONS = [(path, method) for path, methods in SPEC["paths"].items() for method in methods]
DISTINCT = {id(SPEC["paths"][path][method]): (path, method) for path, method in reversed(OPERATIONS)}
"""Each once that has several paths: the first of them."""
NAMES = ["bert", "cross", "classifier", "clip"]
EXAMPLES = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(shared_fake: FakeInfinity) -> AsyncIterator[GatewayInProcess]:
    """Calls that name no model are answered too."""
    models = {Task.EMBED: "bert", Task.RERANK: "cross", Task.CLASSIFY: "classifier"}
    settings = config(*pools_of(shared_fake), router=RouterSettings(default_models=models))
    async with GatewayInProcess(settings) as gateway:
        yield gateway


def narrowed() -> dict[str, Any]:
    """With models that there are, and any time limit: tests/api/test_headers_and_routes.py has those."""
    spec = render_openapi(LimitsSettings())
    parts = spec["components"]
    parts["schemas"]["Model"] |= {"enum": [*NAMES, None]}
    parts["schemas"]["PathModel"] |= {"enum": NAMES}
    parts["parameters"]["Timeout"]["schema"] = {"type": "string"}
    return spec


@pytest.mark.parametrize(("path", "method"), DISTINCT.values())
async def test_every_answer_is_one_that_is_described(whole: GatewayInProcess, path: str, method: str) -> None:
    """Status, headers and body, to what fits the description and to what does not."""
    operation = schemathesis.openapi.from_dict(narrowed())[path][method]
    modes = list(GenerationMode) if method == "post" else [GenerationMode.POSITIVE]
    # What is valid may still be wrong: an unknown model, more dimensions than there are.
    excluded = [positive_data_acceptance]
    if path.startswith("/infinity"):
        excluded.append(
            negative_data_rejection
        )  # Infinity takes "yes" for true, and so does the gateway there

    statuses: list[int] = []

    def ask_all(mode: GenerationMode) -> None:
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            statuses.append(case.call_and_validate(base_url=whole.url, excluded_checks=excluded).status_code)

        ask()

    for mode in modes:
        await asyncio.to_thread(ask_all, mode)
    assert 200 in statuses or path.endswith(("_image", "_audio"))  # no image comes about by chance
    assert method == "get" or len(set(statuses)) > 1


async def test_every_route_is_described(whole: GatewayInProcess, caller: Caller) -> None:
    """And none that is not there: 404 is said of no described path."""
    app = create_app(whole.runtime, Drain(), call_endpoints(whole.runtime))
    paths = {
        route.path.replace("{model:path}", "{model}") for route in app.routes if isinstance(route, Route)
    }

    assert paths - {"/"} == SPEC["paths"].keys()


async def test_the_description_is_served_as_it_is(caller: Caller) -> None:
    """Without a key: it holds nothing of this installation."""
    reply = await caller.get("/openapi.json")

    assert reply.body == SPEC


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.ids.add(named.get("id") or "")
        self.links += [value for name in ("href", "src") if (value := named.get(name))]

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_shows_all_of_it_and_fetches_nothing(caller: Caller) -> None:
    """No script, no host, and no link that leads nowhere."""
    reply = await caller.get("/docs")
    page = _Page()
    page.feed(reply.raw.decode())

    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.raw == render_page(SPEC)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in reply.raw.decode()
    assert "@import" not in reply.raw.decode()
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    for path, method in OPERATIONS:
        assert f"{method.upper()} {path}" in page.text

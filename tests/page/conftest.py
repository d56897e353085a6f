"""One browser for all tests; each opens tabs that share nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest_asyncio

from gateway.bootstrap import EventLoop
from tests.page.browser import Browser, Tab


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": EventLoop}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    async with browser.tab() as tab:
        yield tab

"""The servers that tests share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fakes.infinity import FakeInfinity
from tests.real_infinity import RealInfinity, tiny_models


@pytest.fixture(scope="session")
def real_infinity() -> Iterator[RealInfinity]:
    """One real Infinity for the whole session, serving all tiny models. Leave it as you find it."""
    with RealInfinity(tiny_models()) as infinity:
        yield infinity


@pytest.fixture
async def fake_infinity() -> AsyncIterator[FakeInfinity]:
    """A stand-in with models of the same names, for one test."""
    async with FakeInfinity() as infinity:
        yield infinity


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What is skipped, or expected to fail, fails the run: nobody looks at it again otherwise."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    weak = [report for kind in ("skipped", "xfailed", "xpassed") for report in reporter.stats.get(kind, ())]
    if weak:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.section("skipped, or expected to fail: not allowed here")
        for report in weak:
            reporter.line(report.nodeid)

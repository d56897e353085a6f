"""The servers that tests share, and what is done with the results of a run."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fakes.infinity import FakeInfinity
from tests.real_infinity import RealInfinity, tiny_models
from tools.faults_table import PROVEN, Row, row


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
    record_proofs(session.items, {report.nodeid for report in reporter.stats.get("passed", ())})
    weak = [report for kind in ("skipped", "xfailed", "xpassed") for report in reporter.stats.get(kind, ())]
    if weak:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.section("skipped, or expected to fail: not allowed here")
        for report in weak:
            reporter.line(report.nodeid)


def record_proofs(tests: list[pytest.Item], passed: set[str]) -> None:
    """Of the tests of this run that carry the mark `proves`: what is proven now. Others keep their record."""
    held: dict[str, list[Row]] = {}
    failed = set[str]()
    for test in tests:
        name = test.nodeid.partition("[")[0]
        said = [row(name, *mark.args, **mark.kwargs) for mark in test.iter_markers("proves")]
        if said and test.nodeid in passed:
            held[name] = said
        elif said:
            failed.add(name)
    if held or failed:
        known = json.loads(PROVEN.read_text()) if PROVEN.exists() else {}
        known |= {name: [each[1:] for each in reversed(rows)] for name, rows in held.items()}
        PROVEN.parent.mkdir(exist_ok=True)
        PROVEN.write_text(json.dumps({name: known[name] for name in sorted(known) if name not in failed}))

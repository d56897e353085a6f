"""The servers that tests share, and what is done with the results of a run."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fakes.infinity import FakeInfinity
from tests.real_infinity import RealInfinity, tiny_models
from tools.faults_table import PROVEN, row


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


REAL = (
    "tests/bench/test_real.py",
    "tests/clients/",
    "tests/end_to_end/",
    "tests/parity/",
    "tests/sdk/test_real_infinity.py",
    "tests/test_contract.py",
    "tests/upstream/test_spent.py",
)
"""Who asks the one real Infinity of `real_infinity`."""


class Places(LoadScopeScheduling):  # type: ignore[misc]
    """One of the processes that run tests is given all those of a directory, which share servers, and one all
    of `REAL`.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "real" if path.startswith(REAL) else path.rpartition("/")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Places:
    return Places(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test proves goes with its reports, wherever it runs."""
    for test in items:
        for mark in test.iter_markers("proves"):
            proven = row(test.nodeid.partition("[")[0], *mark.args, **mark.kwargs)
            test.user_properties.insert(0, ("proves", list(proven)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What is skipped, or expected to fail, fails the run: nobody looks at it again otherwise."""
    if hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    record_proofs(*(proofs(reporter.stats.get(kind, ())) for kind in ("passed", "failed", "error")))
    weak = [report for kind in ("skipped", "xfailed", "xpassed") for report in reporter.stats.get(kind, ())]
    if weak:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.section("skipped, or expected to fail: not allowed here")
        for report in weak:
            reporter.line(report.nodeid)


Proofs = dict[str, list[list[str]]]


def proofs(reports: Iterable[pytest.TestReport | pytest.CollectReport]) -> Proofs:
    """The tests among them that prove something, and what."""
    said: Proofs = {}
    for report in reports:  # some are of files that could not be read
        rows = [value for name, value in getattr(report, "user_properties", ()) if name == "proves"]
        if rows:
            said[str(rows[0][0])] = [each[1:] for each in rows]
    return said


def record_proofs(passed: Proofs, *wrong: Proofs) -> None:
    """What is proven now. Tests that did not run keep their record."""
    failed = {name for each in wrong for name in each}
    if passed or failed:
        known = (json.loads(PROVEN.read_text()) if PROVEN.exists() else {}) | passed
        PROVEN.parent.mkdir(exist_ok=True)
        PROVEN.write_text(json.dumps({name: known[name] for name in sorted(known) if name not in failed}))

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

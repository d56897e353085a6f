"""A good call beside each bad one, sent at the same moment: it must not notice."""

import asyncio

from tests.api.caller import Caller, Reply
from tests.fakes.infinity import FakeInfinity, score_of, vector_of

_TEXT, _QUERY = "a neighbour", "a neighbour's query"


async def refused(caller: Caller, fake: FakeInfinity, path: str, body: object, **headers: str) -> Reply:
    """The answer to a call that must reach no server; what a neighbour gets, and that alone, is asserted."""
    bad, embedded, ranked = await asyncio.gather(
        caller.post(path, body, **headers),
        caller.embed([_TEXT]),
        caller.rerank(_QUERY, [_TEXT]),
    )
    assert embedded.vectors == [vector_of(_TEXT).tolist()]
    assert ranked.ranking == [(0, score_of(_QUERY, _TEXT))]
    assert fake.asked == [[_TEXT], [_TEXT]]
    return bad

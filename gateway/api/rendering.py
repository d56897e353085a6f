"""What every dialect makes of an answer: a body, and what the metrics and headers say of it."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any, NamedTuple, Protocol

import orjson

from gateway.messages import Call, Timings


class Reply(NamedTuple):
    body: bytes
    model: str
    timings: Timings
    more: Sequence[bytes] = ()
    """The rest of a large body, in pieces."""


Rendering = Generator[None, None, Reply]
"""A reply in the making: it yields where others may have their turn."""


class Exchange(Protocol):
    """One call as a dialect has read it, which knows how its answer is written."""

    @property
    def call(self) -> Call: ...

    @property
    def items(self) -> int: ...

    def render(self, result: Any, request_id: bytes) -> Reply | Rendering:
        """The reply to a result of the call's kind, or one in the making."""
        ...


_SLICE = 16
"""Rows written before others get their turn; floats of 16 x 1024 take about half a millisecond."""


def in_slices(
    vectors: Sequence[bytes], convert: Callable[[bytes], bytes]
) -> Generator[None, None, list[bytes]]:
    """The vectors as `convert` writes them, as `sliced` has it."""
    return (yield from sliced(map(convert, vectors), len(vectors)))


def sliced(rows: Iterator[bytes], count: int) -> Generator[None, None, list[bytes]]:
    """So many rows in slices, to be joined with commas, as those of a slice are."""
    slices = [b",".join(islice(rows, _SLICE))]
    for _ in range(_SLICE, count, _SLICE):
        yield
        slices.append(b",".join(islice(rows, _SLICE)))
    return slices


def reply_of(before: bytes, slices: Sequence[bytes], after: bytes, model: str, timings: Timings) -> Reply:
    """The reply with the slices of a list between two other parts of its body. Large ones are not copied into
    one piece: that would hold up everybody else for as long as it takes to write them.
    """
    if len(slices) == 1:
        return Reply(b"%b%b%b" % (before, slices[0], after), model, timings)
    commas = repeat(b",", len(slices) - 1)
    first, *rest = slices
    return Reply(before, model, timings, (first, *chain.from_iterable(zip(commas, rest, strict=True)), after))


ABOUT = b'"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d},"id":"infinity-%b","created":%d'


def about(model: str, tokens: int, request_id: bytes) -> tuple[bytes, int, int, bytes, float]:
    """What `ABOUT` says of an answer, as Infinity does. The id is the request's, so that it can be found."""
    created = time.time()  # noqa: TID251 - a date for people
    return orjson.dumps(model), tokens, tokens, request_id, created

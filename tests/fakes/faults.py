"""What a stand-in can be told to do wrong, to which requests, and how often.

    fake.faults.append(Fault(status=503, times=2))
    fake.faults.append(Fault(hang=True, when=contains("poison")))
    fake.faults.append(Fault(edit=fewer, when=to("/rerank")))

A request meets the first fault of the list that fits it, and no other.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.answers import Answer


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. `path` is without the server's prefix, `at_s` in the event loop's time."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any  # As JSON; None where there was none.
    at_s: float

    @property
    def items(self) -> list[Any]:
        """The texts, documents or data URIs of this request, as the caller wrote them."""
        if not isinstance(self.body, dict):
            return []
        items = self.body.get("documents", self.body.get("input", []))
        return items if isinstance(items, list) else [items]


Predicate = Callable[[Received], bool]


def posted(request: Received) -> bool:
    """Every request for inference, and none for /health or /models."""
    return request.method == "POST"


def contains(text: str) -> Predicate:
    """Requests with `text` somewhere in an item, or in the query."""

    def fits(request: Received) -> bool:
        query = request.body.get("query", "") if isinstance(request.body, dict) else ""
        return any(isinstance(item, str) and text in item for item in [*request.items, query])

    return fits


def to(path: str) -> Predicate:
    """Requests for this path, GET included: `to("/models")`."""
    return lambda request: request.path == path


@dataclass(slots=True, kw_only=True, eq=False)
class Fault:
    """One misbehaviour. `delay` and `headers` go with any other; of the rest, set one or none."""

    when: Predicate = posted
    times: int | None = None  # None: for as long as it is in the list.
    delay: asyncio.Event | float = 0  # Before anything else: until the event is set, or for seconds.
    hang: bool = False  # No answer, until the server stops.
    kills_worker: bool = False  # As Infinity: this one and all later ones hang, and /health says 200.
    kills_server: bool = False  # It ends as if killed, until somebody starts it.
    drop: Literal["before", "middle"] | None = None  # Close the connection instead of, or within, the answer.
    reset: bool = False  # With `drop`: by RST instead of FIN.
    wire: bytes | None = None  # Write these bytes, which need not be HTTP, and close.
    status: int | None = None  # With a body as Infinity would word it.
    raw: bytes | None = None  # This body, with 200 or `status`.
    content_type: str = "application/json"  # Of `raw`.
    headers: Mapping[str, str] = field(default_factory=dict)
    edit: Callable[[Answer], Answer | None] | None = None  # Change a good answer, in place or by a new one.
    padding_bytes: int = 0  # This much white space around a good answer: a huge one.
    chunked: bool = False  # With `padding_bytes`: in chunks, so that nobody is told how much will come.
    drip_s: float = 0  # A good answer a byte at a time, with this pause after each.


def rows(answer: Answer) -> list[Any]:
    """The list with one element an item, in any of Infinity's answers."""
    found: list[Any] = answer["results"] if "results" in answer else answer["data"]
    return found


def fewer(answer: Answer) -> None:
    """One vector or score too few."""
    rows(answer).pop()


def more(answer: Answer) -> None:
    """One too many, with an index of its own."""
    last = copy.deepcopy(rows(answer)[-1])
    rows(answer).append(last | {"index": len(rows(answer))})


def duplicate_index(answer: Answer) -> None:
    """The right count, but the last has the index of the first."""
    rows(answer)[-1]["index"] = rows(answer)[0]["index"]


def wrong_index(answer: Answer) -> None:
    """The right count, but an index past the end."""
    rows(answer)[-1]["index"] = len(rows(answer))


def backwards(answer: Answer) -> None:
    """Unusual, and right: every row has its index, the last one comes first."""
    rows(answer).reverse()


def shorter_vector(answer: Answer) -> None:
    """The last vector has lost numbers: one of a list, or the last character group of its base64."""
    last = rows(answer)[-1]
    last["embedding"] = (
        last["embedding"][:-4] if isinstance(last["embedding"], str) else last["embedding"][:-1]
    )


def broken_base64(answer: Answer) -> None:
    rows(answer)[-1]["embedding"] = "!" + rows(answer)[-1]["embedding"][1:]

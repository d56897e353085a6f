"""Rows as people read them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from gateway.bench.load import REFUSED, TIMED_OUT, TOO_MANY, UNSENT, Result, percentile
from gateway.bench.wire import LOST

_LATE_S = 0.005
_LATE_PART = 0.1
"""Of the 99th percentile: less cannot be told from what latencies differ by anyway."""
_CORE_MAX = 0.9


def number(value: float) -> str:
    """Three digits, about as many as mean anything."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def status_words(statuses: Counter[int], timeout_s: float) -> dict[str, int]:
    """Calls by what they ended with, the most first."""
    words = {
        LOST: "connection lost",
        REFUSED: "no connection",
        TIMED_OUT: f"no answer within {timeout_s:g} s",
        UNSENT: f"not sent within {timeout_s:g} s",
    }
    return {words.get(status, str(status)): count for status, count in statuses.most_common()}


def remarks(result: Result, connections_max: int | None, timeout_s: float) -> list[str]:
    """What must be known of a row to judge it. `connections_max` is None where all are always taken."""
    said = []
    if errors := Counter({status: count for status, count in result.statuses.items() if status != TOO_MANY}):
        each = (f"{count:,} × {word}" for word, count in status_words(errors, timeout_s).items())
        said.append("errors: " + ", ".join(each))
    if result.waited and connections_max is not None:
        said.append(
            f"{result.waited:,} calls had to wait for one of {connections_max:,} connections (that counts as "
            "latency); more with --connections"
        )
    late_s = max(_LATE_S, _LATE_PART * percentile(result.latencies_s, 99))
    if result.lag_s > late_s or result.core > _CORE_MAX:
        said.append(
            f"the load itself was late by {1e3 * result.lag_s:.0f} ms (p99) and used {result.core:.2f} of a "
            "core: part of this is its own; run it on a machine with time to spare"
        )
    return said

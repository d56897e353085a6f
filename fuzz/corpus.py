"""The inputs that are kept: a file for each target, an input in base64 a line, shortest first."""

import base64
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent
TARGETS = tuple(sorted(path.stem.removeprefix("fuzz_") for path in ROOT.glob("fuzz_*.py")))

_BYTES_MAX = 2000
"""Of an input that is kept; a longer one comes from a search that may be begun anew."""
_GATEWAY = str(ROOT.parent / "gateway")

_Arc = tuple[str, int, int]


def read(target: str) -> list[bytes]:
    path = _path(target)
    return (
        [base64.b64decode(line, validate=True) for line in path.read_text().split()] if path.exists() else []
    )


def write(target: str, inputs: Iterable[bytes]) -> None:
    _path(target).write_text("".join(f"{base64.b64encode(data).decode()}\n" for data in _sorted(inputs)))


def least(check: Callable[[bytes], None], seeds: Iterable[bytes], inputs: Iterable[bytes]) -> list[bytes]:
    """Those that go, one after the other, where none before has been in the code, and no seed; the shortest
    come first.
    """
    seen = set[_Arc]().union(*(_traced(check, seed) for seed in seeds))
    kept = []
    for data in _sorted(inputs):
        arcs = _traced(check, data) if len(data) <= _BYTES_MAX else set()
        if arcs - seen:
            seen |= arcs
            kept.append(data)
    return kept


def _sorted(inputs: Iterable[bytes]) -> list[bytes]:
    return sorted(set(inputs), key=lambda data: (len(data), data))


def _traced(check: Callable[[bytes], None], data: bytes) -> set[_Arc]:
    """The steps from line to line of the gateway's code."""
    arcs = set[_Arc]()

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        name, last = frame.f_code.co_filename, 0
        if not name.startswith(_GATEWAY):
            return None

        def on_line(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                arcs.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return on_line

        return on_line

    sys.settrace(on_call)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return arcs


def _path(target: str) -> Path:
    return ROOT / "corpus" / f"{target}.txt"

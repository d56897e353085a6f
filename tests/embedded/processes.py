"""Tells whether processes are still there, by handles that never mean another process of the same number."""

import os
import select
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self


class Watched:
    """Processes that are alive when this is made. A zombie counts as ended: it runs no more."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._handles = {pid: os.pidfd_open(pid) for pid in pids}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def alive(self, within_s: float = 0) -> list[int]:
        """Those that have not ended, having waited up to `within_s` for each."""
        return [pid for pid, handle in self._handles.items() if not _ended(handle, within_s)]


def _ended(handle: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(1000 * within_s))


def descendants(pid: int) -> list[int]:
    """The children of `pid`, theirs, and so on."""
    children = _children(pid)
    return [*children, *(below for child in children for below in descendants(child))]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _listed(task)]
    except FileNotFoundError:
        return []  # It has ended meanwhile.


def _listed(task: Path) -> list[str]:
    return (task / "children").read_text().split()

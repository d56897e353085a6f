"""Lines for standard error: JSON for machines, words for people.

They are written in a thread, since a pipe that nobody empties would hold up the event loop. What finds too
many waiting is dropped, counted, and told of; what repeats itself is told now and then, with how often it was
not.
"""

import logging
import os
import re
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson

from gateway.core.settings import LoggingSettings
from gateway.errors import StartError

STDERR = 2

_GATHER_S = 0.02
"""Lines of so long are written together: each time that a thread wakes up, it takes the loop's turn."""
_FLUSH_S_MAX = 1.0
_CALLS_WAITING_MAX = 10_000
_WAITING_MAX = 11_000
"""Lines that tell of events find room where those that tell of calls find none."""
_KINDS_MAX = 1000

_OF_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What ends lines, drives terminals, or has text shown in another order; and halves of pairs."""


class Line(NamedTuple):
    at: float
    """Seconds since 1970."""
    level: str
    event: str
    message: str
    """For a person; empty where the fields say it all."""
    fields: Mapping[str, Any]


def as_json(line: Line) -> bytes:
    """One object, without a line end: ts, level, event, message if there is one, and the fields."""
    at, level, event, message, fields = line
    told = {"ts": _timestamp(at), "level": level, "event": event, **({"message": message} if message else {})}
    try:
        raw = orjson.dumps(told | {**fields}, default=str)
    except orjson.JSONEncodeError:  # half of a surrogate pair, or a number that is too large
        raw = orjson.dumps(told | {"message": ascii(message), "fields": ascii(fields)})
    if raw.isascii():
        return raw
    return _OF_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", raw.decode()).encode()


def as_text(line: Line) -> bytes:
    """The same for a person: a time, a level and a message or, without one, the fields. A traceback follows
    on lines of its own.
    """
    at, level, _, message, fields = line
    said = message or " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None))
    if left_out := fields.get("left_out"):
        said += f" ({left_out} more like this were left out)"
    trace = fields.get("traceback", "").splitlines()
    clean = "\n".join(_OF_CONTROL.sub("?", each) for each in (said, *trace))
    return f"{_timestamp(at)} {level} {clean}".encode(errors="replace")


class Lines:
    """Writes lines to a file descriptor. A context manager, which writes what waits when it is left."""

    def __init__(self, fd: int = STDERR, form: Callable[[Line], bytes] = as_json) -> None:
        self.form = form
        self.dropped = 0
        """So many were not written."""
        self._fd = fd
        self._waiting: deque[Line] = deque()
        self._flushes: deque[threading.Event] = deque()
        self._repeats = Repeats()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._some.set()
        self._thread.join(_FLUSH_S_MAX)  # it may hang on its pipe for ever

    def put(self, line: Line, most: int = _CALLS_WAITING_MAX) -> None:
        """Have it written, unless so many wait already."""
        if len(self._waiting) >= most:
            with self._lock:
                self.dropped += 1
            return
        self._waiting.append(line)
        if not self._some.is_set():
            self._some.set()

    def tell(self, kind: Hashable, line: Line) -> None:
        """The same for what may repeat itself: as the others of its kind it is told only now and then."""
        with self._lock:
            told = self._repeats.take(kind, line)
        if told:
            self.put(told, _WAITING_MAX)
        else:
            self._some.set()  # to be told later

    def flush(self) -> None:
        """Block until what was put before is written, for a second at most: whoever reads it may hang."""
        done = threading.Event()
        self._flushes.append(done)
        self._some.set()
        done.wait(_FLUSH_S_MAX)

    def _run(self) -> None:
        dropped = 0
        while not self._ending.is_set():
            self._some.wait(1.0 if self._repeats.left_out else None)
            self._ending.wait(_GATHER_S)
            self._some.clear()
            now = time.time()  # noqa: TID251 - a date for people
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            self._write_all(self._take(now))
            for done in flushes:
                done.set()
            if self.dropped > dropped:
                self._write(_dropped(now, self.dropped - dropped))
                dropped = self.dropped
        self._write_all(self._take(float("inf")))

    def _take(self, now: float) -> list[Line]:
        with self._lock:
            found = self._repeats.due(now)
        while self._waiting:
            found.append(self._waiting.popleft())
        return found

    def _write_all(self, lines: list[Line]) -> None:
        if not self._write(*lines):
            with self._lock:
                self.dropped += len(lines)

    def _write(self, *lines: Line) -> bool:
        """Whether anybody reads them."""
        rest = memoryview(b"".join([self.form(line) + b"\n" for line in lines]))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever we share it with wants it so
                select.select([], [self._fd], [], 1.0)
            except OSError:
                return False
        return True


def _dropped(at: float, count: int) -> Line:
    message = f"{count} lines of this log were dropped: standard error does not take them fast enough"
    return Line(at, "WARNING", "lines_dropped", message, {"lines": count})


class Repeats:
    """Lines of one kind: the first few pass, then one each `every_s`, with the number of those left out
    since. The last one that was left out is told in the end, since it says how things are.
    """

    def __init__(self, at_once: int = 5, every_s: float = 10.0) -> None:
        self._at_once = at_once
        self._every_s = every_s
        self._kinds: dict[Hashable, _Kind] = {}
        self.left_out = 0
        """Kinds of which there is something to tell."""

    def take(self, kind: Hashable, line: Line) -> Line | None:
        """What is to be told now, if anything."""
        if kind not in self._kinds and len(self._kinds) >= _KINDS_MAX:
            kind = None
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(self._at_once, line.at)
        self._refill(known, line.at)
        if known.room < 1:
            self.left_out += known.last is None
            known.last = line
            known.count += 1
            return None
        return self._tell(known, line, known.count)

    def due(self, now: float) -> list[Line]:
        """What was left out, has to wait no longer, and has had no successor."""
        found: list[Line] = []
        for kind, known in list(self._kinds.items()):
            self._refill(known, now)
            if known.last is None:
                if known.room >= self._at_once:
                    del self._kinds[kind]
            elif known.room >= 1:
                found.append(self._tell(known, known.last, known.count - 1))
        return sorted(found, key=lambda line: line.at)

    def _refill(self, known: "_Kind", now: float) -> None:
        known.room = min(self._at_once, known.room + max(0.0, now - known.at) / self._every_s)
        known.at = now

    def _tell(self, known: "_Kind", line: Line, left_out: int) -> Line:
        self.left_out -= known.last is not None
        known.room -= 1
        known.last, known.count = None, 0
        return line._replace(fields={**line.fields, "left_out": left_out}) if left_out else line


class _Kind:
    __slots__ = ("at", "count", "last", "room")

    def __init__(self, room: float, at: float) -> None:
        self.room = room
        self.at = at
        self.last: Line | None = None
        self.count = 0


class Handler(logging.Handler):
    """Hands the records of `logging` on. One of ours has an `event`, `fields`, and is `about` something: all
    about the same are of one kind, and all others with the same text before arguments are put in.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = getattr(record, "event", "")
            fields = dict(getattr(record, "fields", ()))
            if not event:
                event, fields["logger"] = "log", record.name
            if record.exc_info and (error := record.exc_info[1]):
                fields["traceback"] = stack(error)
            line = Line(record.created, record.levelname, event, record.getMessage(), fields)
            self._lines.tell(getattr(record, "about", None) or (record.levelno, str(record.msg)), line)
        except Exception:  # `handleError` would print what was to be logged.
            fields = {"logger": record.name}
            self._lines.put(Line(record.created, "ERROR", "log", "a line could not be made", fields))


def stack(error: BaseException) -> str:
    """Where an exception comes from, and its kind. Not what it says, unless it is one of ours or the
    system's: that may quote what a caller has sent.
    """
    lines: list[str] = []
    each: BaseException | None = error
    while each is not None:
        said = f": {each}" if isinstance(each, StartError | OSError | ImportError) else ""
        part = ["Traceback (most recent call last):\n", *traceback.format_tb(each.__traceback__)]
        lines[:0] = [*part, f"{type(each).__name__}{said}\n", *(["\n"] if lines else [])]
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "".join(lines)


def set_up(lines: Lines, settings: LoggingSettings) -> None:
    """Have all that is logged in this process written to `lines`."""
    is_json = settings.format == "json" or (settings.format == "auto" and not os.isatty(STDERR))
    lines.form = as_json if is_json else as_text
    logging.basicConfig(handlers=[Handler(lines)], level=settings.level.upper(), force=True)
    # The server's own words at start and end repeat ours.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.root.level))


def on_exception(_loop: object, context: Mapping[str, Any]) -> None:
    """An event loop's handler of what nobody has caught. asyncio's own shows the objects concerned, and with
    them what callers have sent.
    """
    message = re.split("[<(]", context.get("message", "an error that nobody caught"))[0].rstrip()
    logging.getLogger("gateway").error(
        message, exc_info=context.get("exception"), extra={"event": "bug", "about": message}
    )


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

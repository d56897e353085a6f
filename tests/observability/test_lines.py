"""What stands on a line, that a full pipe holds up nobody, and that repetition does not flood."""

import asyncio
import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StartError
from gateway.observability.lines import Handler, Line, Lines, Repeats, as_json, as_text, on_exception, stack

AT = 1_764_000_000.123
SECRET = "what a caller has sent"


def record(message: str, *args: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    error = extra.pop("error", None)
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("gateway", level, "x.py", 1, message, args, info)
    vars(made).update(extra)
    return made


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def handled(path: Path, *records: logging.LogRecord) -> list[dict[str, Any]]:
    """What a handler writes of them, as JSON."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Lines(fd) as lines:
        for each in records:
            Handler(lines).emit(each)
    os.close(fd)
    return written(path)


def test_a_line_of_json_has_time_level_event_and_fields() -> None:
    line = Line(AT, "INFO", "server_up", "a is up", {"model": "bert", "tokens": 3})

    assert json.loads(as_json(line)) == {
        "ts": "2025-11-24T16:00:00.123Z",
        "level": "INFO",
        "event": "server_up",
        "message": "a is up",
        "model": "bert",
        "tokens": 3,
    }


@pytest.mark.parametrize("hostile", ["two\nlines", "\x1b[31mred", "\x00", "\u2028", "\x9b", "half \ud800"])
def test_no_text_makes_a_second_line_or_drives_a_terminal(hostile: str) -> None:
    for message, fields in ((hostile, {"model": "bert"}), ("", {"model": hostile})):
        line = Line(AT, "INFO", "call", message, fields)
        for raw in (as_json(line), as_text(line)):
            text = raw.decode()
            assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text)
        assert len(as_text(line).decode().splitlines()) == 1
        assert json.loads(as_json(line))["event"] == "call"


def test_people_get_the_message_or_the_fields() -> None:
    said = Line(AT, "WARNING", "server_down", "a is not up", {"model": "bert", "left_out": 7})
    call = Line(AT, "INFO", "call", "", {"status": 200, "key": "", "tokens": 0})

    assert as_text(said) == b"2025-11-24T16:00:00.123Z WARNING a is not up (7 more like this were left out)"
    assert as_text(call) == b"2025-11-24T16:00:00.123Z INFO status=200 tokens=0"


def test_records_of_ours_and_of_others_become_lines(tmp_path: Path) -> None:
    ours, others = handled(
        tmp_path / "log",
        record("up", event="server_up", about="a", fields={"model": "bert"}),
        record("%s of %d", "one", 2, level=logging.WARNING),
    )

    assert (ours["event"], ours["message"], ours["model"]) == ("server_up", "up", "bert")
    assert (others["event"], others["level"], others["message"]) == ("log", "WARNING", "one of 2")
    assert others["logger"] == "gateway"


def test_what_an_exception_says_is_not_told_but_where_it_comes_from(tmp_path: Path) -> None:
    """Python quotes values in many of its own."""
    try:
        try:
            float(SECRET)
        except ValueError as error:
            raise KeyError(SECRET) from error
    except KeyError as error:
        (line,) = handled(tmp_path / "log", record("internal error", level=logging.ERROR, error=error))

    assert SECRET not in json.dumps(line)
    assert "test_what_an_exception_says" in line["traceback"]
    assert line["traceback"].index("ValueError") < line["traceback"].index("KeyError")
    assert "no such name" in stack(StartError("no such name"))


def test_what_nobody_catches_shows_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's own message names the callback with what it was called with."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(on_exception)
    loop.call_soon(float, SECRET)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

    (line,) = handled(tmp_path / "log", *caplog.records)
    assert SECRET not in json.dumps(line)
    assert line["event"] == "bug"
    assert line["level"] == "ERROR"
    assert "ValueError" in line["traceback"]


def test_a_line_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    """`logging` itself would print what was to be logged."""
    (line,) = handled(tmp_path / "log", record("%d", SECRET))

    assert line["message"] == "a line could not be made"
    assert SECRET not in json.dumps(line)


# A pipe that nobody empties


def test_a_full_pipe_blocks_nobody_and_what_is_dropped_is_counted() -> None:
    """Those that were taken come in their order. An event finds room where calls find none."""
    reading, writing = os.pipe()
    filler = b"." * 65_536
    lines = Lines(writing, lambda line: filler if line.event == "filler" else as_json(line))
    with lines:
        lines.put(Line(AT, "INFO", "filler", "", {}))
        while lines._waiting:  # until the thread has it, which then hangs in the pipe
            pass
        for number in range(15_000):
            lines.put(Line(AT, "INFO", "call", "", {"number": number}))
        lines.tell("a", Line(AT, "WARNING", "server_down", "a is not up", {}))
        assert lines.dropped == 5_000

        with os.fdopen(reading, "rb") as pipe:
            assert pipe.readline() == filler + b"\n"
            dropped, *calls, down = (json.loads(pipe.readline()) for _ in range(10_002))
    os.close(writing)

    assert [line["number"] for line in calls] == [*range(10_000)]
    assert down["event"] == "server_down"
    assert dropped["lines"] == 5_000


def test_what_is_flushed_stands_before_what_is_written_then(tmp_path: Path) -> None:
    """As "Ready.", which goes to standard output at once: below the lines that say why."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Lines(fd) as lines:
        for round_ in range(3):
            Handler(lines).emit(record("a is up", about="a"))
            lines.flush()
            os.write(fd, b'{"message": "ready %d"}\n' % round_)
    os.close(fd)

    told = [line["message"] for line in written(path)]
    assert told == [each for round_ in range(3) for each in ("a is up", f"ready {round_}")]


def test_it_ends_although_the_pipe_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.observability.lines._FLUSH_S_MAX", 0.05)
    reading, writing = os.pipe()
    with Lines(writing, lambda _: b"." * 100_000) as lines:
        lines.put(Line(AT, "INFO", "call", "", {}))

    assert lines._thread.is_alive()
    while len(os.read(reading, 200_000)) == 65_536:
        pass
    lines._thread.join()
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_nobody_reads_any_more_harms_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with Lines(writing) as lines:
        lines.put(Line(AT, "INFO", "call", "", {}))
    os.close(writing)

    assert lines.dropped == 1


# Repetition


def line(number: int, at: float) -> Line:
    return Line(at, "WARNING", "server_down", "", {"number": number})


def test_a_server_that_flaps_ten_times_a_second_gives_a_line_each_ten_seconds() -> None:
    """At first five. Each says how many were left out before it, and the last of all is told in the end."""
    repeats = Repeats()
    told = [found for n in range(600) if (found := repeats.take("a", line(n, AT + n / 10)))]
    told += repeats.due(AT + 70)

    assert [each.fields["number"] for each in told[:5]] == [0, 1, 2, 3, 4]
    assert len(told) <= 12
    assert told[-1].fields["number"] == 599
    assert len(told) + sum(each.fields.get("left_out", 0) for each in told) == 600
    assert repeats.left_out == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_line_is_told_or_counted(seed: int) -> None:
    rng = random.Random(seed)
    repeats, now, given, told = Repeats(), AT, 0, list[Line]()
    for _ in range(500):
        now += rng.expovariate(1) if rng.random() < 0.3 else rng.choice([0, -1, 0.01])
        if rng.random() < 0.1:
            told += repeats.due(now)
        else:
            given += 1
            found = repeats.take(rng.randrange(3), line(given, now))
            told += [found] if found else []
    told += repeats.due(now + 100)

    assert len(told) + sum(each.fields.get("left_out", 0) for each in told) == given
    assert repeats.left_out == 0
    assert repeats.due(now + 1000) == []
    assert repeats._kinds == {}


def test_kinds_without_end_take_no_memory_without_end() -> None:
    repeats = Repeats()
    told = [repeats.take(number, line(number, AT)) for number in range(5_000)]

    assert len(repeats._kinds) <= 1_001
    assert sum(each is not None for each in told) == 1_005


def test_what_was_left_out_is_told_without_another_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread wakes up for that."""
    monkeypatch.setattr("gateway.observability.lines.Repeats", lambda: Repeats(at_once=1, every_s=0.1))
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Lines(fd) as lines:
        for _ in range(3):
            Handler(lines).emit(record("again", event="again"))
        while len(path.read_bytes().splitlines()) < 2:
            pass
    os.close(fd)

    assert [each.get("left_out", 0) for each in written(path)] == [0, 1]

"""What is sent."""

import itertools
import json
from pathlib import Path

import orjson
import pytest

from gateway.bench.inputs import MadeUp, read
from gateway.errors import StartError


def first(inputs: MadeUp, count: int, start: int = 0) -> list[dict[str, object]]:
    return [orjson.loads(body) for body in itertools.islice(inputs.bodies("m", start), count)]


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_made_up_texts_are_all_different_and_the_same_at_the_same_place() -> None:
    inputs, again, others = (MadeUp("short", False, None, seed) for seed in (1, 1, 2))
    texts = [each["input"] for each in first(inputs, 3000)]
    assert len(set(map(str, texts))) == 3000
    assert [each["input"] for each in first(inputs, 10, 500)] == texts[500:510]
    assert [each["input"] for each in first(again, 10)] == texts[:10]
    assert not {str(each["input"]) for each in first(others, 3000)} & set(map(str, texts))
    assert inputs.repeated(3000) == ""


def test_lengths_are_those_that_are_said() -> None:
    words = [len(str(each["input"]).split()) for each in first(MadeUp("mixed", False, None, 1), 2000)]
    assert min(words) >= 4
    assert max(words) <= 220
    assert sum(words) / len(words) == pytest.approx(27, abs=2)


def test_calls_have_as_many_texts_as_asked_for() -> None:
    (call,) = first(MadeUp("short", False, 3, 1), 1)
    assert call.keys() == {"model", "encoding_format", "input"}
    assert isinstance(call["input"], list)
    assert len(call["input"]) == 3
    (call,) = first(MadeUp("mixed", True, None, 1), 1)
    assert call.keys() == {"model", "query", "documents"}
    assert isinstance(call["documents"], list)
    assert len(call["documents"]) == 20


def test_a_file_has_a_text_a_line(tmp_path: Path) -> None:
    inputs = read(
        written(tmp_path / "q.txt", "one", "", " two ", '{"input": "as it is"}'), False, None, False
    )
    assert [inputs.asked(at)["input"] for at in range(3)] == ["one", "two", '{"input": "as it is"}']
    pairs = read(tmp_path / "q.txt", False, 2, False)
    assert [pairs.asked(at)["input"] for at in range(2)] == [["one", "two"], ['{"input": "as it is"}']]


def test_a_file_that_is_used_up_says_something_new_each_time(tmp_path: Path) -> None:
    path = written(tmp_path / "q.jsonl", {"input": "a"}, {"input": ["b", "c"]})
    inputs = read(path, False, None, False)
    assert [inputs.asked(at)["input"] for at in range(6)] == [
        "a",
        ["b", "c"],
        "a 1",
        ["b 1", "c 1"],
        "a 2",
        ["b 2", "c 2"],
    ]
    assert inputs.repeated(2) == ""
    assert "3.0 times" in inputs.repeated(6)
    assert "none was sent twice" in inputs.repeated(6)


def test_repeating_is_said(tmp_path: Path) -> None:
    inputs = read(written(tmp_path / "q.txt", "a", "b"), False, None, True)
    assert inputs.asked(0) == inputs.asked(2)
    assert "as they are" in inputs.repeated(3)


def test_a_file_of_rerank_calls_is_known_by_its_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", {"query": "q", "documents": ["d", "e"], "id": 7})
    inputs = read(path, False, None, False)
    assert (inputs.path, inputs.capability) == ("/rerank", "rerank")
    assert inputs.asked(1) == {"query": "q 1", "documents": ["d", "e"]}


@pytest.mark.parametrize(
    ("name", "lines", "reranks", "items", "said"),
    [
        ("q.txt", ["", " "], False, None, "q.txt: has no texts"),
        ("q.txt", ["a"], True, None, "q.txt: --rerank needs a .jsonl file"),
        ("q.jsonl", [{"input": "a"}, "{oops"], False, None, "q.jsonl:2: is no JSON"),
        ("q.jsonl", [{"input": "a"}, "", {"input": 7}], False, None, "q.jsonl:3: expected"),
        ("q.jsonl", [{"input": []}], False, None, "q.jsonl:1: expected"),
        ("q.jsonl", [{"query": "a", "documents": ["b", 1]}], False, None, "q.jsonl:1: expected"),
        ("q.jsonl", [{"input": "a"}, {"query": "a", "documents": ["b"]}], False, None, "each line must have"),
        ("q.jsonl", [{"input": "a"}], True, None, "each line must have query and documents"),
        ("q.jsonl", [{"input": "a"}], False, 4, "leave out --items"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    tmp_path: Path, name: str, lines: list[object], reranks: bool, items: int | None, said: str
) -> None:
    with pytest.raises(StartError) as failed:
        read(written(tmp_path / name, *lines), reranks, items, False)
    assert said in str(failed.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"none\.txt: cannot be read"):
        read(tmp_path / "none.txt", False, None, False)

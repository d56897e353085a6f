"""A body that is no JSON object: the answer says where it breaks, and how to mend it."""

import pytest

from tests.api.caller import Caller
from tests.api.configs import SHARED
from tests.api.neighbours import refused
from tests.fakes.infinity import FakeInfinity

pytestmark = SHARED

PATHS = ["/embeddings", "/v1/embeddings", "/rerank", "/v1/rerank", "/classify", "/v1/classify"]


@pytest.mark.parametrize(
    ("body", "line", "column", "mend"),
    [
        ('{"model": "bert", "input": "a",}', 1, 31, "comma"),
        ('{\n  "model": "bert",\n  "input": ["a",]\n}', 3, 16, "comma"),
        ("{'model': 'bert'}", 1, 2, "JSON strings stand in double quotes"),
        ("{\"model\": 'bert'}", 1, 11, "JSON strings stand in double quotes"),
        ('{"input": "a", "user": None}', 1, 24, "JSON writes null, not Python's None"),
        ('{"input": "a",\n"return_documents": True}', 2, 21, "JSON writes true, not Python's True"),
        ('{"input": "a", "raw_scores": False}', 1, 30, "JSON writes false, not Python's False"),
        ('{"input": ["a", None, "b"]}', 1, 17, "JSON writes null, not Python's None"),
        ('{"input": "a", // the text\n"model": "bert"}', 1, 16, "JSON has no comments"),
        ('{"input": "a" # the text\n}', 1, 15, "JSON has no comments"),
        ('/* a call */ {"input": "a"}', 1, 1, "JSON has no comments"),
        ('{"input": "a", "weight": NaN}', 1, 26, "NaN"),
        ('{"input": "a", "weight": -Infinity}', 1, 26, "Infinity"),
        ('{"input": "a" "model": "bert"}', 1, 15, "expected ','"),
        ('{\n "input": ["a" "b"]\n}', 2, 16, "expected ','"),
        ('{input: "a"}', 1, 2, "string key"),
        ('{"input": "a"', 1, 14, "end of data"),
        ('{"input": "a', 1, 13, "end of data"),
        ('{"input": "a\nb"}', 1, 11, "control character"),
        ('{"input": "a"}{"input": "b"}', 1, 15, "content after document"),
        ('{"ü": "ö", "€": "🙂", "x": tru}', 1, 27, "expected 'true'"),
        ("model=bert&input=a", 1, 1, "expected a JSON value"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith(("{", "/", "m")) else "",
)
async def test_broken_json_is_explained(
    caller: Caller, fake: FakeInfinity, body: str, line: int, column: int, mend: str
) -> None:
    """By line and column of the text, counted in characters, and by what ought to stand there."""
    reply = await refused(caller, fake, "/v1/embeddings", body.encode())

    message = reply.error(400)
    assert message.startswith("the body is not JSON: ")
    assert mend in message
    # A fault within a string or a number is sometimes seen at its begin, and sometimes at its end.
    found = message.split(" at line ")[1].split(";")[0]
    assert found.startswith(f"{line}, column ")
    assert abs(int(found.split("column ")[1]) - column) <= 2


@pytest.mark.parametrize(
    "body",
    ['{"input": }', '{"input": "a"}}', '{"input": "a"}]', '{"input": ["a", "b"}', '{"input": "a"]', "]"],
)
async def test_a_mend_is_named_only_where_it_is_one(caller: Caller, fake: FakeInfinity, body: str) -> None:
    """No comma is at fault where there is none too many."""
    message = (await refused(caller, fake, "/v1/embeddings", body.encode())).error(400)

    assert "the body is not JSON" in message
    assert "a comma after the last element must go" not in message


@pytest.mark.parametrize(
    ("body", "line"),
    [(b'{"input": "\xff"}', 1), (b'{\n"model": "bert",\n"input": "caf\xe9"}', 3), (b"\xff\xfe{\0}\0", 1)],
    ids=["a byte", "Latin-1", "UTF-16"],
)
async def test_what_is_not_utf8_is_named(caller: Caller, fake: FakeInfinity, body: bytes, line: int) -> None:
    """With its line, since a text of thousands of them may have one such byte."""
    message = (await refused(caller, fake, "/v1/embeddings", body)).error(400)

    assert "UTF-8" in message
    assert f"line {line}," in message


async def test_a_byte_order_mark_is_named(caller: Caller, fake: FakeInfinity) -> None:
    """PowerShell puts one before its files, and nobody sees it."""
    message = (await refused(caller, fake, "/v1/embeddings", b'\xef\xbb\xbf{"input": "a"}')).error(400)

    assert "BOM" in message


@pytest.mark.parametrize("body", [b"", b" \n\t"])
@pytest.mark.parametrize("path", PATHS)
async def test_an_empty_body(caller: Caller, fake: FakeInfinity, path: str, body: bytes) -> None:
    """Says that it is empty, on every route."""
    assert "the body is empty" in (await refused(caller, fake, path, body)).error(400)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "a list"),
        (b'["a"]', "a list"),
        (b'"a"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "true or false"),
        (b"null", "null"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_json_that_is_no_object(
    caller: Caller, fake: FakeInfinity, path: str, body: bytes, kind: str
) -> None:
    """Says what came instead."""
    message = (await refused(caller, fake, path, body)).error(400)

    assert message == f"the body must be a JSON object, not {kind}"


@pytest.mark.parametrize("text", [r"\ud800", r"\udfff", r"\ud800\ud800", r"\ud800x", r"a\udc00"])
@pytest.mark.parametrize("field", ["input", "model", "user", "anything", "\\ud800"])
async def test_half_a_surrogate_pair_is_no_text(
    caller: Caller, fake: FakeInfinity, text: str, field: str
) -> None:
    """Wherever it stands: an Infinity that gets it answers 500, to all who share the batch."""
    body = f'{{"model": "bert", "input": "a", "{field}": "{text}"}}'

    assert "surrogate" in (await refused(caller, fake, "/v1/embeddings", body.encode())).error(400)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_depth_has_an_end(caller: Caller, fake: FakeInfinity, opening: bytes) -> None:
    """A hundred thousand brackets are an error of the caller and of nobody else."""
    body = b'{"input": ' + opening * 100_000

    assert "the body is not JSON" in (await refused(caller, fake, "/v1/embeddings", body)).error(400)


async def test_a_key_given_twice_counts_once(caller: Caller, fake: FakeInfinity) -> None:
    """The last one, as with every JSON reader that callers use."""
    reply = await caller.post("/v1/embeddings", b'{"model": "bert", "input": "one", "input": "two"}')

    assert reply.status == 200
    assert fake.batches == [["two"]]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_json_is_json_under_any_name(caller: Caller, fake: FakeInfinity, content_type: str) -> None:
    """`curl -d` without a header says that it sends a form."""
    reply = await caller.post("/v1/embeddings", {"model": "bert", "input": "one"}, Content_Type=content_type)

    assert reply.status == 200

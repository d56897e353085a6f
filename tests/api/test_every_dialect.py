"""Every dialect, on both ways from the parser: what is wrong is refused in the words of its route, and what
is right is answered with what the server gave.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.answers import NATIVE, check_answer, rankings_in, vectors_in
from gateway.core.settings import LimitsSettings
from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED, config, pools_of
from tests.api.ways import by_asgi, through
from tests.fakes.infinity import FakeInfinity
from tests.fakes.vectors import classes_of, logit_of, score_of, trim, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

LIMITS = LimitsSettings(items_max=6, media_items_max=3, text_chars_max=250, body_bytes_max=20_000)
LITELLM = "litellm/1.83.0"

MANY = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Callers = tuple[Caller, Caller]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callers(shared_fake: FakeInfinity) -> AsyncIterator[Callers]:
    """One for the direct way, and one for uvicorn's own."""
    given = config(*pools_of(shared_fake), limits=LIMITS)
    async with GatewayInProcess(given) as direct:
        with through(by_asgi):
            ordinary = GatewayInProcess(given)
            async with ordinary, Caller(direct.url) as quick, Caller(ordinary.url) as slow:
                yield quick, slow


async def answered(callers: Callers, path: str, body: bytes, **headers: str) -> Reply:
    """The answer on the direct way, which is that on the other."""
    one, two = [await caller.post(path, body, x_request_id="abc", **headers) for caller in callers]
    assert (one.status, _steady(one)) == (two.status, _steady(two))
    return one


def _steady(reply: Reply) -> Any:
    body = reply.body
    if isinstance(body, dict):
        body.pop("created", None)
    return repr(body)  # NaN is nothing else


# What is wrong


_TEXTS = ["a", " b "]
_Body = dict[str, Any]
_EMBEDDINGS: list[_Body] = [
    {"model": "bert", "input": _TEXTS, "encoding_format": "base64", "dimensions": 2, "user": "u"},
    {"model": "bert", "input": "a", "input_type": "query", "normalized": True, "extra": 1},
    {"model": "clip", "input": ["data:image/png;base64,AAAA"], "modality": "image"},
]
_RERANK: _Body = {"model": "cross", "query": "q", "top_n": 1, "return_documents": True, "raw_scores": False}
_COHERE: list[_Body] = [_RERANK | {"documents": _TEXTS}, _RERANK | {"documents": [{"text": "a"}, "b"]}]
_RERANKS: list[_Body] = [
    *_COHERE,
    {"model": "cross", "query": "q", "documents": _TEXTS, "top_k": 1, "truncation": True},
    {"model": "cross", "query": "q", "texts": _TEXTS, "return_text": True, "truncation_direction": "Right"},
]
_CLASSIFY: list[_Body] = [{"model": "classifier", "input": _TEXTS, "raw_scores": True}]
_COHERE_EMBED: list[_Body] = [
    {"model": "bert", "texts": _TEXTS, "input_type": "search_query", "embedding_types": ["float"]},
    {"model": "bert", "texts": _TEXTS, "truncate": "END", "output_dimension": 3, "priority": 1},
]
_TEI: list[_Body] = [
    {"model": "bert", "inputs": _TEXTS, "normalize": True, "truncate": True, "prompt_name": "query"}
]

GOOD: dict[str, list[_Body]] = {
    **dict.fromkeys(("/embeddings", "/v1/embeddings", "/infinity/embeddings"), _EMBEDDINGS),
    **dict.fromkeys(("/engines/bert/embeddings", "/openai/deployments/bert/embeddings"), _EMBEDDINGS),
    **dict.fromkeys(("/rerank", "/v1/rerank"), _RERANKS),
    **dict.fromkeys(("/v2/rerank", "/infinity/rerank", "/infinity/v1/rerank"), _COHERE),
    **dict.fromkeys(("/classify", "/v1/classify", "/infinity/classify"), _CLASSIFY),
    **dict.fromkeys(("/v1/embed", "/v2/embed"), _COHERE_EMBED),
    "/embed": _TEI,
    "/infinity/embeddings_image": [{"model": "clip", "input": "data:image/png;base64,AAAA"}],
    "/infinity/embeddings_audio": [{"model": "clap", "input": ["data:audio/wav;base64,AAAA"]}],
}


class Raw(NamedTuple):
    """A piece of a body that is written as it is."""

    text: str


class Fields(list[tuple[Any, Any]]):
    """An object, whose names may come twice."""


ODD: list[Any] = [
    *(Raw(text) for text in ("NaN", "-Infinity", "1e999", "-0", "1E400", "9" * 400, "1e-400", "01", "", ",")),
    *(Raw(text) for text in (r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"\x07"', "'a'", "None", "tru")),
    *(Raw("[" * depth + "]" * depth) for depth in (5, 70, 3000)),
    *(Raw('{"a":' * depth + "1" + "}" * depth) for depth in (5, 70, 3000)),
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 0.0, 1.5, 1e300),
    *("", " ", "a", "1", "true", "float", "base64", "image", "audio", "text", "http://127.0.0.1/a", "data:,"),
    *("é\u0301", "\u202e", "\x7f", "\U0010ffff", "a" * 300, "x" * 5000),
    *([], [[]], {}, {"text": "a"}, {"text": 1}, [None], ["a", 1], [[1]], ["a"] * 7, {"a": {"b": []}}),
]  # fmt: skip
NAMES = [
    *("api_base", "api_key", "user_config", "modality", "encoding_format", "dimensions", "output_dimension"),
    *("output_dtype", "embedding_types", "input", "inputs", "texts", "documents", "query", "top_n", "top_k"),
    *("model", "Model", "", "rank_fields", "return_documents", "truncation", "x" * 300, Raw(r'"\ud800"')),
]


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path, and a good body of its dialect with up to three things changed."""
    path = draw(st.sampled_from(sorted(GOOD)))
    top = [_parts(draw(st.sampled_from(GOOD[path])))]
    for _ in range(draw(st.integers(1, 3))):
        places = [(inside, at) for inside in _containers(top) for at in range(len(inside))]
        if not places:
            break
        inside, at = draw(st.sampled_from(places))
        odd = _parts(draw(st.sampled_from(ODD)))
        change = draw(st.sampled_from(["replace", "drop", "double", "wrap", "rename", "add"]))
        named = isinstance(inside, Fields)
        name, value = inside[at] if named else (None, inside[at])
        match change:
            case "drop":
                del inside[at]
            case "double":
                inside.insert(at, (name, odd) if named else odd)
            case "add" | "rename" if named:
                other = draw(st.sampled_from(NAMES))
                inside[at:at] = [(other, odd)]
                if change == "rename":
                    inside[at : at + 2] = [(other, value)]
            case "wrap":
                inside[at] = (name, [value]) if named else [value]
            case _:
                inside[at] = (name, odd) if named else odd
    return path, "".join(map(_written, top)).encode(errors="surrogatepass")


def _parts(value: Any) -> Any:
    """The same, with objects as their fields."""
    match value:
        case dict():
            return Fields((name, _parts(inner)) for name, inner in value.items())
        case Raw():
            return value
        case list():
            return [_parts(inner) for inner in value]
    return value


def _containers(value: Any) -> list[list[Any]]:
    if not isinstance(value, list):
        return []
    inner = [part[1] if isinstance(value, Fields) else part for part in value]
    return [value, *(found for part in inner for found in _containers(part))]


def _written(value: Any) -> str:
    match value:
        case Raw(text):
            return text
        case Fields():
            return "{" + ", ".join(f"{_written(name)}: {_written(inner)}" for name, inner in value) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.proves(
    "bodies that are no JSON, of other types, too deep, with numbers and characters that nothing can hold",
    caller="4xx in the words of the route",
    kind="attack",
)
@MANY
@given(broken())
async def test_what_is_wrong_is_refused_in_the_words_of_the_route(
    callers: Callers, fake: FakeInfinity, case: tuple[str, bytes]
) -> None:
    """With a documented status, and no server is broken by it."""
    path, body = case
    fake.requests.clear()

    reply = await answered(callers, path, body)

    check_answer(path, reply.status, reply.raw)
    if reply.status not in (200, 400, 422):
        assert fake.asked == []


# What is right


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=6)
ENCODINGS = st.sampled_from([None, "float", "base64"])
SIZES = st.one_of(st.none(), st.integers(1, 8))
EMBEDDING = {
    "/v1/embeddings": ("input", "dimensions"),
    "/engines/bert/embeddings": ("input", "output_dimension"),
    "/infinity/embeddings": ("input", "dimensions"),
    "/v1/embed": ("texts", "output_dimension"),
    "/v2/embed": ("texts", "output_dimension"),
    "/embed": ("inputs", "dimensions"),
}


@settings(MANY, max_examples=150)
@given(st.sampled_from(sorted(EMBEDDING)), TEXTS, ENCODINGS, SIZES)
async def test_vectors_are_those_that_the_server_gave(
    callers: Callers, fake: FakeInfinity, path: str, texts: list[str], encoding: str | None, size: int | None
) -> None:
    """To the last bit, in base64 and in floats, whole and cut."""
    input_name, size_name = EMBEDDING[path]
    body: dict[str, Any] = {"model": "bert", input_name: texts}
    if encoding and path.endswith("embeddings"):
        body["encoding_format"] = encoding
    if size:
        body[size_name] = size

    reply = await answered(callers, path, json.dumps(body).encode())

    assert reply.status == 200
    assert vectors_in(reply.body) == [vector_of(text)[:size].tolist() for text in texts]
    if path.endswith("embeddings"):
        kind = str if encoding == "base64" else list
        assert {type(row["embedding"]) for row in reply.body["data"]} == {kind}


RANKED: dict[tuple[str, str], tuple[str, str | None, str, Callable[[str], Any]]] = {
    # path and user agent: the fields for documents, for how many, and for their echo; and what is echoed
    ("/v1/rerank", ""): ("documents", "top_n", "return_documents", lambda text: {"text": text}),
    ("/v2/rerank", ""): ("documents", "top_n", "return_documents", lambda text: {"text": text}),
    ("/rerank", LITELLM): ("documents", "top_n", "return_documents", str),
    ("/rerank", ""): ("documents", "top_k", "return_documents", lambda text: {"text": text}),
    ("/v1/rerank", "tei"): ("texts", None, "return_text", str),
    ("/infinity/rerank", ""): ("documents", "top_n", "return_documents", trim),
}  # fmt: skip


@settings(MANY, max_examples=150)
@given(
    st.sampled_from(sorted(RANKED)),
    TEXTS,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.one_of(st.none(), st.integers(1, 7)),
    st.booleans(),
    st.booleans(),
)
async def test_rankings_are_those_of_the_servers_scores(
    callers: Callers,
    fake: FakeInfinity,
    route: tuple[str, str],
    documents: list[str],
    query: str,
    most: int | None,
    echoes: bool,
    raw: bool,
) -> None:
    """Best first, equals in the order in which they came, with the documents as they came."""
    documents_name, most_name, echo_name, echoed = RANKED[route]
    body: dict[str, Any] = {"model": "cross", "query": query, documents_name: documents, "raw_scores": raw}
    body |= {echo_name: echoes}
    if most and most_name:
        body[most_name] = most

    reply = await answered(callers, route[0], json.dumps(body).encode(), User_Agent=route[1])

    assert reply.status == 200
    scores = [(logit_of if raw else score_of)(query, document) for document in documents]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: most if most_name else None]
    assert all(ranking == [(index, scores[index]) for index in best] for ranking in rankings_in(reply.body))
    rows = reply.body if isinstance(reply.body, list) else reply.body["results"]
    told = [row.get("document", row.get("text")) for row in rows]
    assert told == [echoed(documents[index]) if echoes else None for index in best]


@settings(MANY, max_examples=40)
@given(st.sampled_from(["/classify", NATIVE + "classify"]), TEXTS)
async def test_classes_are_those_that_the_server_gave(
    callers: Callers, fake: FakeInfinity, path: str, texts: list[str]
) -> None:
    reply = await answered(callers, path, json.dumps({"model": "classifier", "input": texts}).encode())

    assert reply.body["data"] == [classes_of(text) for text in texts]

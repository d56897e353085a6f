"""What goes to a server, and what is made of a good answer."""

import json
from typing import Any

import pytest

from gateway.messages import Modality
from gateway.pool import Encoding
from gateway.upstream.infinity import InfinityUpstream
from tests.api.media import orange
from tests.fakes.faults import Fault, backwards
from tests.fakes.infinity import FakeInfinity, FakeModel, classes_of, logit_of, score_of, vector_of
from tests.upstream.requests import (
    TIMEOUT_S,
    decoded,
    deployment,
    documents,
    media,
    texts,
    to_classify,
)


async def test_texts_come_back_as_base64_in_their_order(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Each text gets its own vector, as a quoted base64 string, and the server's count comes with them."""
    answer = await upstream.send(deployment(fake_infinity), texts("one", "three", "two"), TIMEOUT_S)

    assert decoded(answer.values) == [vector_of(text).tolist() for text in ("one", "three", "two")]
    assert all(isinstance(value, bytes) and value.startswith(b'"') for value in answer.values)
    assert answer.tokens == 11


async def test_rows_are_placed_by_their_index(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """A server may write its rows in any order: the index says whose they are."""
    fake_infinity.faults.append(Fault(edit=backwards))

    vectors = await upstream.send(deployment(fake_infinity), texts("one", "two"), TIMEOUT_S)
    scores = await upstream.send(deployment(fake_infinity, "cross"), documents("q", "a", "b"), TIMEOUT_S)

    assert decoded(vectors.values) == [vector_of("one").tolist(), vector_of("two").tolist()]
    assert scores.values == [score_of("q", "a"), score_of("q", "b")]


async def test_an_embedding_request_is_nothing_but_what_is_needed(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Model, texts and base64: no dimensions, no user, and no modality for text."""
    await upstream.send(deployment(fake_infinity), texts("one"), TIMEOUT_S)

    [request] = fake_infinity.requests
    assert (request.method, request.path) == ("POST", "/embeddings")
    assert request.body == {"model": "bert", "input": ["one"], "encoding_format": "base64"}
    assert request.headers["Content-Type"] == "application/json"


async def test_a_server_of_one_model_is_asked_without_a_name(upstream: InfinityUpstream) -> None:
    """Where the configuration names no model of the server, none is sent."""
    async with FakeInfinity([FakeModel("only")]) as fake:
        await upstream.send(deployment(fake, None), texts("one"), TIMEOUT_S)

    assert fake.requests[0].body == {"input": ["one"], "encoding_format": "base64"}


async def test_floats_are_asked_for_only_where_base64_is_impossible(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """A request says itself how its vectors are to be encoded."""
    request = texts("one", encoding=Encoding.FLOAT)
    answer = await upstream.send(deployment(fake_infinity, "bert-bits"), request, TIMEOUT_S)

    assert fake_infinity.requests[0].body["encoding_format"] == "float"
    assert all(isinstance(value, bytes) and value.startswith(b"[") for value in answer.values)


async def test_rerank_is_asked_for_all_scores_and_no_documents(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Sorting, top_n and documents are the gateway's own work, so scores come in the documents' order."""
    answer = await upstream.send(
        deployment(fake_infinity, "cross"), documents("q", "a", "b", "c", raw_scores=True), TIMEOUT_S
    )

    [request] = fake_infinity.requests
    assert (request.method, request.path) == ("POST", "/rerank")
    assert request.body == {
        "model": "cross",
        "query": "q",
        "documents": ["a", "b", "c"],
        "return_documents": False,
        "raw_scores": True,
    }
    assert answer.values == [logit_of("q", document) for document in "abc"]
    assert answer.tokens == 6


async def test_a_score_that_is_no_number_arrives_as_one(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Infinity writes NaN as null."""
    fake_infinity.faults.append(
        Fault(raw=b'{"results":[{"index":0,"relevance_score":null}],"usage":{"total_tokens":2}}')
    )

    answer = await upstream.send(deployment(fake_infinity, "cross"), documents("q", "a"), TIMEOUT_S)

    assert str(answer.values) == "[nan]"


async def test_classes_come_back_as_the_server_wrote_them(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """The labels of each text are a piece of JSON that nobody here looks into."""
    server = deployment(fake_infinity, "classifier")
    answer = await upstream.send(server, to_classify("a", "b", raw_scores=False), TIMEOUT_S)

    assert [json.loads(str(value, "utf-8")) for value in answer.values if isinstance(value, bytes)] == [
        classes_of("a"),
        classes_of("b"),
    ]
    assert fake_infinity.requests[0].path == "/classify"
    assert fake_infinity.requests[0].body == {
        "model": "classifier",
        "input": ["a", "b"],
        "raw_scores": False,
    }


async def test_media_name_their_modality(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """An image goes to the route of texts, with the word that says what it is."""
    await upstream.send(deployment(fake_infinity, "clip"), media(Modality.IMAGE, orange(4)), TIMEOUT_S)

    assert fake_infinity.requests[0].path == "/embeddings"
    assert fake_infinity.requests[0].body["modality"] == "image"


async def test_parameters_are_sent_as_they_are(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Text stays text, a whole number whole, and true stays true."""
    params: dict[str, Any] = {"a": "1", "b": 1, "c": 1.5, "d": True, "e": 2**63, "é": "ü"}

    await upstream.send(deployment(fake_infinity), texts("one", **params), TIMEOUT_S)

    assert {name: fake_infinity.requests[0].body[name] for name in params} == params


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "cross"),
        ("input", "two"),
        ("encoding_format", "float"),
        ("modality", "image"),
        ("dimensions", 2),
    ],
)
async def test_the_fields_of_an_embedding_win_over_parameters(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, name: str, value: Any
) -> None:
    """A parameter cannot change what is asked, of whom, or in which form."""
    answer = await upstream.send(deployment(fake_infinity), texts("one", **{name: value}), TIMEOUT_S)

    assert decoded(answer.values) == [vector_of("one").tolist()]


@pytest.mark.parametrize("name", ["model", "query", "documents", "return_documents", "top_n"])
async def test_the_fields_of_a_reranking_win_over_parameters(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, name: str
) -> None:
    """Least of all top_n, which would leave documents without a score."""
    request = documents("q", "a", "b", **{name: 1})

    answer = await upstream.send(deployment(fake_infinity, "cross"), request, TIMEOUT_S)

    assert answer.values == [score_of("q", "a"), score_of("q", "b")]


async def test_every_scripts_characters_survive(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """What is sent is UTF-8, from quotes and NUL to what lies beyond the basic plane."""
    items = ['"\\', "\0\x1f", "žluťoučký", "ประเทศ", "日本語", "🙂\u200d🙂", "\u2028"]

    answer = await upstream.send(deployment(fake_infinity), texts(*items), TIMEOUT_S)

    assert fake_infinity.batches == [items]
    assert decoded(answer.values) == [vector_of(item).tolist() for item in items]


async def test_a_batch_of_long_texts_is_sent_like_any_other(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """32 texts as long as they may be are 4 MB."""
    items = ["a" * 122_880] * 32

    answer = await upstream.send(deployment(fake_infinity), texts(*items), TIMEOUT_S)

    assert answer.tokens == 32 * 122_880

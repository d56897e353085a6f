"""Calls that can never succeed: refused here, with the reason, before any server or neighbour notices."""

from typing import Any

import pytest

from tests.api.caller import Caller
from tests.api.configs import SHARED
from tests.api.neighbours import refused
from tests.fakes.infinity import FakeInfinity

pytestmark = SHARED

CHARACTERS_MAX = 122_880
ITEMS_MAX = 2048
LONG = "a" * 200 * 1024
DOTS = "…"

EMBEDDINGS = {"model": "bert", "input": "a"}
RERANK = {"model": "cross", "query": "q", "documents": ["a"]}
CLASSIFY = {"model": "classifier", "input": ["a"]}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", EMBEDDINGS),
    ("/v1/rerank", RERANK),
    ("/v1/classify", CLASSIFY),
]


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("/embeddings", {**EMBEDDINGS, "input": []}, "input", "input is empty"),
        ("/rerank", {**RERANK, "documents": []}, "documents", "documents is empty"),
        ("/classify", {**CLASSIFY, "input": []}, "input", "input is empty"),
        ("/embeddings", {**EMBEDDINGS, "input": ["a"] * 2049}, "input", "2049 items; at most 2048"),
        ("/rerank", {**RERANK, "documents": ["a"] * 2049}, "documents", "2049 items; at most 2048"),
        ("/classify", {**CLASSIFY, "input": ["a"] * 2049}, "input", "2049 items; at most 2048"),
        ("/embeddings", {**EMBEDDINGS, "input": LONG}, "input", "204800 characters; at most 122880"),
        ("/embeddings", {**EMBEDDINGS, "input": ["a", LONG]}, "input", "204800 characters; at most 122880"),
        ("/rerank", {**RERANK, "query": LONG}, "query", "204800 characters; at most 122880"),
        ("/rerank", {**RERANK, "documents": ["a", LONG]}, "documents", "204800 characters; at most 122880"),
        ("/classify", {**CLASSIFY, "input": [LONG]}, "input", "204800 characters; at most 122880"),
        ("/embeddings", {"model": "bert"}, "input", "input is missing"),
        ("/rerank", {"model": "cross", "documents": ["a"]}, "query", "query is missing"),
        ("/rerank", {"model": "cross", "query": "q"}, "documents", "documents is missing"),
        ("/classify", {"model": "classifier"}, "input", "input is missing"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else DOTS,
)
async def test_too_much_too_little_and_nothing(
    caller: Caller, fake: FakeInfinity, path: str, body: object, param: str, said: str
) -> None:
    """The message says what came and what is taken, and the field at fault is named."""
    reply = await refused(caller, fake, path, body)

    assert said in reply.error(400)
    assert reply.body["error"]["param"] == param
    assert reply.body["error"]["type"] == "invalid_request_error"
    assert len(reply.raw) < 1000


async def test_the_longest_text_is_measured_without_its_white_space(
    caller: Caller, fake: FakeInfinity
) -> None:
    """In characters, not in bytes, as Infinity measures it: what it takes is not refused here."""
    reply = await caller.embed([f"\u3000{'🙂' * CHARACTERS_MAX}\n"])

    assert reply.status == 200
    assert reply.body["usage"]["total_tokens"] == CHARACTERS_MAX


WRONG: list[tuple[str, Any, list[Any]]] = [
    ("/v1/embeddings", {**EMBEDDINGS}, ["model", 1, 1.5, True, [], {}, ["bert"]]),
    (
        "/v1/embeddings",
        {**EMBEDDINGS},
        ["input", None, 1, 1.5, True, {}, {"text": "a"}, [None], ["a", 1], [["a"]]],
    ),
    ("/v1/embeddings", {**EMBEDDINGS}, ["encoding_format", "", "int8", "FLOAT", 1, True, [], {}, ["float"]]),
    ("/v1/embeddings", {**EMBEDDINGS}, ["dimensions", -1, 1.5, "", "3", True, False, [], {}, [3]]),
    ("/v1/embeddings", {**EMBEDDINGS}, ["output_dimension", -1, 1.5, "", "3", True, False, [], {}]),
    ("/v1/embeddings", {**EMBEDDINGS}, ["modality", "", "video", 1, True, [], {}, ["text"]]),
    ("/v1/embeddings", {**EMBEDDINGS}, ["output_dtype", "", "int8", "binary", "ubinary", 1, True, [], {}]),
    ("/v1/rerank", {**RERANK}, ["model", 1, 1.5, True, [], {}]),
    ("/v1/rerank", {**RERANK}, ["query", None, 1, 1.5, True, [], {}, ["q"], {"text": "q"}]),
    (
        "/v1/rerank",
        {**RERANK},
        ["documents", None, "a", 1, True, {}, [1], [None], [["a"]], [{}], [{"text": 1}]],
    ),
    ("/v1/rerank", {**RERANK}, ["top_n", 0, -1, 1.5, "2", True, False, [], {}]),
    ("/v1/rerank", {**RERANK}, ["top_k", 0, -1, 1.5, "2", True, False, [], {}]),
    ("/v1/rerank", {**RERANK, "top_n": 1}, ["top_k", 0, -1, 1.5, "2", True, [], {}]),
    ("/v1/rerank", {**RERANK}, ["return_documents", 0, 1, "yes", "", [], {}]),
    ("/v1/rerank", {**RERANK}, ["rank_fields", "text", 1, True, {}, ["title"], ["text", "title"]]),
    ("/v1/classify", {**CLASSIFY}, ["model", 1, 1.5, True, [], {}]),
    ("/v1/classify", {**CLASSIFY}, ["input", None, "a", 1, True, {}, [1], [None], [["a"]]]),
]


@pytest.mark.parametrize(
    ("path", "body", "name", "value"),
    [(path, body, name, value) for path, body, (name, *values) in WRONG for value in values],
)
async def test_every_field_has_a_type(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any], name: str, value: object
) -> None:
    """What is of another type is neither guessed nor left out: the caller is told which field it is."""
    reply = await refused(caller, fake, path, {**body, name: value})

    assert name.removeprefix("output_") in reply.error(400).replace("dimensions", "dimensions dimension")


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]], [0], [[101, 102]]])
async def test_token_ids_name_the_setting_to_change(
    caller: Caller, fake: FakeInfinity, tokens: object
) -> None:
    """LangChain's default sends them, and Infinity takes text alone."""
    reply = await refused(caller, fake, "/v1/embeddings", {"model": "bert", "input": tokens})

    assert "check_embedding_ctx_length=False" in reply.error(400)


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize("model", ["nobody", "infinity/bert", "BERT", "bert ", "../bert", "a" * 200])
async def test_an_unknown_model_is_told_the_names(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any], model: str
) -> None:
    """404, as OpenAI answers, and never another model instead."""
    reply = await refused(caller, fake, path, {**body, "model": model})

    message = reply.error(404)
    assert "bert" in message
    assert "cross" in message
    assert reply.body["error"]["code"] == "model_not_found"
    assert reply.body["error"]["param"] == "model"


async def test_a_huge_name_of_a_model_is_not_sent_back(caller: Caller, fake: FakeInfinity) -> None:
    """An answer, and a line in a log, stay short whatever a caller sends."""
    reply = await refused(caller, fake, "/v1/embeddings", {"model": "a" * 1_000_000, "input": "a"})

    assert reply.status in (400, 404)
    assert len(reply.raw) < 5000


@pytest.mark.parametrize(
    ("path", "body", "others"),
    [
        ("/v1/embeddings", {**EMBEDDINGS, "model": "cross"}, "bert"),
        ("/v1/rerank", {**RERANK, "model": "bert"}, "cross"),
        ("/v1/classify", {**CLASSIFY, "model": "bert"}, "classifier"),
        (
            "/v1/embeddings",
            {"model": "bert", "input": ["data:image/png;base64,AA"], "modality": "image"},
            "clip",
        ),
        (
            "/v1/embeddings",
            {"model": "clip", "input": ["data:audio/wav;base64,AA"], "modality": "audio"},
            "clap",
        ),
    ],
)
async def test_a_model_that_cannot_do_it_names_those_that_can(
    caller: Caller, fake: FakeInfinity, path: str, body: object, others: str
) -> None:
    """The server would refuse it too, and all who share the batch."""
    reply = await refused(caller, fake, path, body)

    assert f"these can: {others}" in reply.error(400)


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize(
    "name",
    ["api_base", "api_bases", "base_url", "api_key", "user_config", "litellm_params", "model_list", "config"],
)
@pytest.mark.parametrize("value", ["http://169.254.169.254/", {"a": 1}, ["x"], 1])
async def test_no_call_chooses_a_destination_a_key_or_a_configuration(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any], name: str, value: object
) -> None:
    """What LiteLLM takes from trusted callers opens the network inside to all others."""
    reply = await refused(caller, fake, path, {**body, name: value})

    assert name in reply.error(400)
    assert reply.body["error"]["param"] == name


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize("value", [[], {}, ["a"], {"a": 1}, "a" * 257])
async def test_unknown_fields_are_scalars(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any], value: object
) -> None:
    """They tell batches apart, so they are short."""
    reply = await refused(caller, fake, path, {**body, "anything": value})

    assert "anything" in reply.error(400)


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_the_name_of_an_unknown_field_is_short_too(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any]
) -> None:
    """It is sent on and tells batches apart like what it names."""
    reply = await refused(caller, fake, path, {**body, "a" * 100_000: 1})

    assert reply.error(400)
    assert len(reply.raw) < 5000


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_seventeen_unknown_fields_are_too_many(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any]
) -> None:
    """Sixteen are passed on; those that are null do not count."""
    sixteen = {f"field_{i}": i for i in range(16)}
    reply = await refused(caller, fake, path, {**body, **sixteen, "one_more": 1})
    fake.requests.clear()
    passed = await caller.post(path, {**body, **sixteen, "one_more": None})

    assert "17 unknown fields; at most 16" in reply.error(400)
    assert passed.status == 200
    assert sixteen.items() <= fake.posts[0].body.items()


@pytest.mark.parametrize("modality", ["image", "audio"])
@pytest.mark.parametrize(
    "given",
    [
        ["http://169.254.169.254/latest/meta-data"],
        ["https://example.com/a.png"],
        ["file:///etc/passwd"],
        ["/etc/passwd"],
        ["a"],
        [1],
        [],
        1,
        None,
        {},
        ["data:image/png;base64,AA"] * 33,
    ],
)
async def test_media_are_data_uris(caller: Caller, fake: FakeInfinity, modality: str, given: object) -> None:
    """The server would fetch any other address, from inside the network it stands in."""
    model = "clip" if modality == "image" else "clap"
    body = {"model": model, "input": given, "modality": modality}

    assert "input" in (await refused(caller, fake, "/v1/embeddings", body)).error(400)

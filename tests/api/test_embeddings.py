"""`POST /embeddings` in OpenAI's shape, with what real clients send besides."""

import base64
import json
import struct
import time
from typing import Any

import numpy as np
import pytest

from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pool
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, vector_of, vectors_of
from tests.fakes.vectors import bits_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

ONE, TWO = vector_of("one").tolist(), vector_of("two").tolist()


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings"])
@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_an_answer_is_openais_to_the_letter(
    caller: Caller, fake: FakeInfinity, path: str, encoding: str | None
) -> None:
    """Exactly OpenAI's fields, and the id and the time that Infinity adds."""
    asked = time.time()
    reply = await caller.post(
        path, {"model": "bert", "input": ["one", "two"], "encoding_format": encoding}, x_request_id="abc"
    )

    assert reply.status == 200
    body = reply.body
    assert body.keys() == {"object", "data", "model", "usage", "id", "created"}
    assert (body["object"], body["model"], body["id"]) == ("list", "bert", "infinity-abc")
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert asked - 2 < body["created"] < time.time() + 2
    assert isinstance(body["created"], int)
    assert [row.keys() for row in body["data"]] == [{"object", "embedding", "index"}] * 2
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert {type(row["embedding"]) for row in body["data"]} == {str if encoding == "base64" else list}
    assert reply.vectors == [ONE, TWO]


async def test_floats_are_printed_as_short_as_they_can_be(caller: Caller, fake: FakeInfinity) -> None:
    """Each as the shortest decimal that is the same float32, not as the double that it becomes."""
    reply = await caller.embed(["one"], encoding_format="float")

    printed = reply.raw.split(b'"embedding":[')[1].split(b"]")[0].decode().split(",")
    assert [np.float32(text) for text in printed] == list(vector_of("one"))
    for text, number in zip(printed, vector_of("one"), strict=True):
        digits = len(text.lstrip("-0.").split("e")[0].replace(".", ""))
        assert digits <= len(np.format_float_scientific(number, unique=True).split("e")[0].replace(".", ""))


async def test_nothing_but_base64_is_asked_of_the_server(caller: Caller, fake: FakeInfinity) -> None:
    """Whatever the caller wants: dimensions and user stay here, and floats are made here."""
    fields = {
        "dimensions": 3,
        "user": "me",
        "output_dimension": 3,
        "encoding_format": "float",
        "modality": "text",
    }

    reply = await caller.embed(["one"], **fields)

    assert reply.vectors == [ONE[:3]]
    assert [request.body for request in fake.posts] == [
        {"model": "bert", "input": ["one"], "encoding_format": "base64"}
    ]


@pytest.mark.parametrize("text", ["one", " one\n", "\u2003one\u3000"])
async def test_a_single_string_is_a_list_of_one(caller: Caller, fake: FakeInfinity, text: str) -> None:
    """OpenAI takes either."""
    assert (await caller.embed(text)).vectors == [ONE]


@pytest.mark.parametrize("text", ["", " \n\u3000"])
async def test_an_empty_text_has_a_vector(caller: Caller, fake: FakeInfinity, text: str) -> None:
    """Infinity takes it, and it costs nothing."""
    reply = await caller.embed([text, "one"])

    assert reply.vectors == [vector_of("").tolist(), ONE]
    assert reply.body["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"dimensions": 1}, 1),
        ({"dimensions": 3}, 3),
        ({"dimensions": 8}, 8),
        ({"output_dimension": 3}, 3),
        ({"dimensions": 0, "output_dimension": 3}, 3),
        ({"dimensions": None, "output_dimension": 3}, 3),
        ({"dimensions": 0}, 8),
        ({"dimensions": None}, 8),
        ({"output_dimension": 0}, 8),
    ],
)
async def test_dimensions_keep_the_first_numbers(
    caller: Caller, fake: FakeInfinity, fields: dict[str, Any], size: int, encoding: str
) -> None:
    """Cut and not normalised again, as Infinity does; null and 0 mean all of them."""
    reply = await caller.embed(["one", "two"], encoding_format=encoding, **fields)

    assert reply.vectors == [ONE[:size], TWO[:size]]


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
async def test_more_dimensions_than_there_are_is_the_callers_mistake(
    caller: Caller, fake: FakeInfinity, name: str
) -> None:
    """The message says how many there are, and the field at fault is named."""
    reply = await caller.embed(["one"], **{name: 9})

    assert "from 1 to 8" in reply.error(400)
    assert reply.body["error"]["param"] == "dimensions"


async def test_null_is_as_good_as_nothing(caller: Caller, fake: FakeInfinity) -> None:
    """Typed clients send every field that they know."""
    names = ("encoding_format", "dimensions", "user", "output_dimension", "modality", "input_type", "task")

    reply = await caller.embed(["one"], output_dtype=None, anything=None, **dict.fromkeys(names))

    assert reply.vectors == [ONE]
    assert fake.posts[0].body.keys() == {"model", "input", "encoding_format"}


async def test_a_call_without_a_model_means_the_only_one_that_can() -> None:
    """As with an Infinity that serves one model."""
    async with FakeInfinity() as fake:
        settings = config(pool("b", fake, model="bert"), pool("cross", fake))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            replies = [await caller.embed("one", model) for model in (None, "", "default/not-specified")]

    for reply in replies:
        assert reply.vectors == [ONE]
        assert reply.body["model"] == "b"


async def test_a_call_without_a_model_names_those_that_can(caller: Caller, fake: FakeInfinity) -> None:
    """Where several can, the caller has to choose."""
    reply = await caller.embed("one", None)

    message = reply.error(400)
    assert "bert" in message
    assert "clip" in message
    assert "cross" not in message
    assert fake.asked == []


async def test_a_models_prefixes_stand_before_the_texts() -> None:
    """By input_type or task, and charged, since the server counts them."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"input_type": "query"}, "query: "),
        ({"input_type": "search_query"}, "query: "),
        ({"task": "retrieval.query"}, "query: "),
        ({"input_type": "document"}, "passage: "),
        ({"input_type": "passage"}, "passage: "),
        ({"task": "retrieval.passage"}, "passage: "),
        ({"input_type": "search_document"}, "passage: "),
        ({}, ""),
        ({"input_type": None}, ""),
        ({"input_type": "clustering"}, ""),
    ]
    prefixes = {"query": "query: ", "document": "passage: "}
    async with FakeInfinity([FakeModel("e5")]) as fake:
        settings = config(pool("e5", fake, prefixes=prefixes))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            for fields, prefix in cases:
                fake.requests.clear()
                reply = await caller.embed(["one", " two "], "e5", **fields)

                assert fake.batches == [[f"{prefix}one", f"{prefix}two"]]
                assert fake.posts[0].body.keys() == {"model", "input", "encoding_format"}
                assert reply.body["usage"]["total_tokens"] == 6 + 2 * len(prefix)


async def test_other_roles_mean_nothing_without_prefixes(caller: Caller, fake: FakeInfinity) -> None:
    """A model that wants none gets the texts as they are."""
    await caller.embed(["one"], input_type="query")

    assert fake.batches == [["one"]]


async def test_several_vectors_a_text_are_nested_lists(caller: Caller, fake: FakeInfinity) -> None:
    """As Infinity writes them; base64 has them one after another, as Infinity has them too."""
    nested = await caller.embed(["two words", "a"], "colbert", encoding_format="float")
    flat = await caller.embed(["two words"], "colbert", encoding_format="base64")
    cut = await caller.embed(["two words"], "colbert", dimensions=2)

    assert nested.vectors == [vectors_of("two words").tolist(), vectors_of("a").tolist()]
    assert flat.vectors == [vectors_of("two words").ravel().tolist()]
    assert "several vectors" in cut.error(400)


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_bit_vectors_come_in_either_form(caller: Caller, fake: FakeInfinity, encoding: str) -> None:
    """The server can only write floats, and the caller does not notice."""
    reply = await caller.embed(["one"], "bert-bits", encoding_format=encoding)
    cut = await caller.embed(["one"], "bert-bits", encoding_format=encoding, dimensions=1)

    assert reply.vectors == [bits_of("one").tolist()]
    assert cut.vectors == [bits_of("one").tolist()[:1]]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_many_texts_keep_their_order(caller: Caller, fake: FakeInfinity, encoding: str) -> None:
    """The most that fit in one call, divided among batches and put together again."""
    texts = [f"text {i} {'long ' * (i % 9)}" for i in range(2048)]

    reply = await caller.embed(texts, encoding_format=encoding)

    assert reply.vectors == [vector_of(text).tolist() for text in texts]
    assert reply.body["usage"]["total_tokens"] == sum(len(text.strip()) for text in texts)
    assert sum(map(len, fake.batches)) == 2048
    assert 2048 / 32 <= len(fake.batches) < 1.2 * 2048 / 32
    assert max(map(len, fake.batches)) == 32


@pytest.mark.parametrize("value", ["1e30", "-0.0", "1e-45", "3.4028235e38", "16777217"])
async def test_numbers_of_any_size_stay_the_same_float32(
    caller: Caller, fake: FakeInfinity, value: str
) -> None:
    """From the smallest to the largest, through base64 or printed."""
    expected = np.float32(value)
    fake.faults.append(
        Fault(
            edit=lambda answer: answer["data"][0].update(
                embedding=base64.b64encode(struct.pack("<f", expected)).decode()
            )
        )
    )

    reply = await caller.embed(["one"])

    [[number]] = [row["embedding"] for row in json.loads(reply.raw)["data"]]
    assert np.float32(number).tobytes() == expected.tobytes()

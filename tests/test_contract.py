"""What Infinity answers, asserted on the stand-in and on the real one alike.

These are tests of the servers. What they say about the real one is what the gateway is built on; that
the stand-in passes them as well is what makes every other test worth something.
"""

import base64
import io
import json
import math
import struct
import wave
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest

from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.real_infinity import RealInfinity, ServedModel

ENVELOPE = {"object", "data", "model", "usage", "id", "created"}
NAMES = ["bert", "cross", "classifier", "clip", "clap", "colbert", "bert-tokens", "bert-bits"]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: Any  # As JSON; text where it is none.

    @property
    def problems(self) -> list[tuple[str, list[str | int]]]:
        """Kind and place of everything that a 422 complains about."""
        assert self.status == 422, self.body
        assert all({"msg", "input"} <= problem.keys() for problem in self.body["detail"])
        return [(problem["type"], problem["loc"]) for problem in self.body["detail"]]

    def error(self, status: int) -> str:
        """The message of an error in Infinity's own shape."""
        assert self.status == status, self.body
        error = self.body["error"]
        assert error == {"message": error["message"], "type": None, "param": None, "code": status}
        return str(error["message"])


class Caller:
    """Calls one server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **headers: str) -> Reply:
        return await self._send("GET", path, None, headers)

    async def post(self, path: str, body: object, **headers: str) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        return await self._send("POST", path, raw, {"Content-Type": "application/json", **headers})

    async def _send(self, method: str, path: str, raw: bytes | None, headers: Mapping[str, str]) -> Reply:
        async with self._session.request(
            method, path, data=raw, headers=headers, allow_redirects=False
        ) as answer:
            said = await answer.read()
            is_json = answer.content_type == "application/json" and said
            return Reply(answer.status, answer.headers, json.loads(said) if is_json else said.decode())

    async def embed(self, texts: object, model: str = "bert", **options: object) -> Reply:
        return await self.post("/embeddings", {"model": model, "input": texts, **options})

    async def vectors(self, texts: object, model: str = "bert", **options: object) -> list[Any]:
        reply = await self.embed(texts, model, **options)
        assert reply.status == 200, reply.body
        assert [row["index"] for row in reply.body["data"]] == list(range(len(reply.body["data"])))
        return [row["embedding"] for row in reply.body["data"]]

    async def rerank(self, query: str, documents: object, **options: object) -> Reply:
        return await self.post(
            "/rerank", {"model": "cross", "query": query, "documents": documents, **options}
        )


async def caller_of(url: str) -> AsyncIterator[Caller]:
    # Infinity never gives up on a request: a test that hangs it should say so itself.
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(url, timeout=timeout, skip_auto_headers=["Content-Type"]) as session:
        yield Caller(session)


@pytest.fixture(params=["fake", "real"])
def url(request: pytest.FixtureRequest) -> str:
    server: FakeInfinity | RealInfinity = request.getfixturevalue(f"{request.param}_infinity")
    return server.url


@pytest.fixture
async def infinity(url: str) -> AsyncIterator[Caller]:
    """A server with all tiny models."""
    async for caller in caller_of(url):
        yield caller


@pytest.fixture(scope="session")
def locked_real_infinity() -> Iterator[RealInfinity]:
    models = [ServedModel("debug")]
    with RealInfinity(models, engine="debugengine", url_prefix="/v1", api_key="secret") as server:
        yield server


@pytest.fixture
async def locked_fake_infinity() -> AsyncIterator[FakeInfinity]:
    async with FakeInfinity([FakeModel("debug", dim=13)], url_prefix="/v1", api_key="secret") as server:
        yield server


@pytest.fixture(params=["fake", "real"])
def locked_url(request: pytest.FixtureRequest) -> str:
    server: FakeInfinity | RealInfinity = request.getfixturevalue(f"locked_{request.param}_infinity")
    return server.url.removesuffix("/v1")


@pytest.fixture
async def locked(locked_url: str) -> AsyncIterator[Caller]:
    """A server with one model, which embeds in 13 numbers, a key, and everything under /v1."""
    async for caller in caller_of(locked_url):
        yield caller


def decoded(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


def png(width: int, height: int) -> str:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\x80\0" * width) * height))
    return data_uri("image/png", b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def wav(samples: int, rate: int = 16_000) -> str:
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        wave_form = (int(9_000 * math.sin(i / 5)) for i in range(samples))
        recording.writeframes(b"".join(struct.pack("<h", level) for level in wave_form))
    return data_uri("audio/wav", file.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# /embeddings


async def test_embeddings_answer_in_openai_shape(infinity: Caller) -> None:
    reply = await infinity.embed(["one", "two and three"])

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body.keys() == ENVELOPE
    assert reply.body["object"] == "list"
    assert reply.body["model"] == "bert"
    assert reply.body["id"].startswith("infinity-")
    assert isinstance(reply.body["created"], int)
    assert [row.keys() for row in reply.body["data"]] == [{"object", "embedding", "index"}] * 2
    assert [row["object"] for row in reply.body["data"]] == ["embedding"] * 2
    assert [row["index"] for row in reply.body["data"]] == [0, 1]


async def test_vectors_have_length_one_and_keep_the_order_of_the_texts(infinity: Caller) -> None:
    texts = [f"{'word ' * (i % 7)} number {i}" for i in range(40)]

    together = await infinity.vectors(texts)
    alone = [(await infinity.vectors([text]))[0] for text in texts[::8]]

    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    assert np.allclose(together[::8], alone, atol=5e-3)
    assert not np.allclose(together[0], together[1], atol=5e-3)


async def test_a_single_text_is_a_list_of_one(infinity: Caller) -> None:
    assert np.allclose(await infinity.vectors("text"), await infinity.vectors(["text"]), atol=1e-5)


async def test_base64_is_little_endian_float32(infinity: Caller) -> None:
    floats = await infinity.vectors(["one", "two"])
    coded = await infinity.vectors(["one", "two"], encoding_format="base64")

    assert np.allclose([decoded(text) for text in coded], floats, atol=1e-5)


@pytest.mark.parametrize("sent", [3, "3", 3.0])
@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_dimensions_cut_without_normalising(infinity: Caller, sent: object, encoding: str) -> None:
    [whole] = await infinity.vectors(["text"])
    [cut] = await infinity.vectors(["text"], dimensions=sent, encoding_format=encoding)

    numbers = decoded(cut) if encoding == "base64" else np.array(cut)
    assert np.allclose(numbers, whole[:3], atol=1e-5)


async def test_dimensions_of_zero_or_all_change_nothing(infinity: Caller) -> None:
    [whole] = await infinity.vectors(["text"])

    for dimensions in (0, len(whole)):
        assert np.allclose(await infinity.vectors(["text"], dimensions=dimensions), [whole], atol=1e-5)


async def test_dimensions_out_of_range_are_refused(infinity: Caller) -> None:
    [whole] = await infinity.vectors(["text"])

    for dimensions in (-1, len(whole) + 1):
        message = (await infinity.embed(["text"], dimensions=dimensions)).error(400)
        assert message == (
            "<class 'infinity_emb.primitives.MatryoshkaDimError'> -> "
            f"matryoshka_dim={dimensions} is not in a valid range. Select between 1 and {len(whole)}."
        )


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("plain", 5),
        ("  both ends \n", 9),
        ("  a\x1c ", 2),  # Python's strip would take the \x1c as well.
        ("\x1c", 1),
        ("é\x85\xa0\u2003\u3000", 1),
        ("\u200b\ufeff", 2),  # Neither is white space.
        ("🙂🙂", 2),
        (" \t", 0),
    ],
)
async def test_usage_counts_the_characters_of_the_trimmed_text(
    infinity: Caller, text: str, characters: int
) -> None:
    reply = await infinity.embed([text, "abc"])

    assert reply.body["usage"] == {"prompt_tokens": characters + 3, "total_tokens": characters + 3}


async def test_texts_are_embedded_trimmed(infinity: Caller) -> None:
    padded, plain = await infinity.vectors(["\u2003 text\n", "text"])

    assert np.allclose(padded, plain, atol=1e-5)


async def test_a_server_told_to_counts_tokens(infinity: Caller) -> None:
    reply = await infinity.embed(["hello world", " dog "], "bert-tokens")

    assert reply.body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_unknown_fields_are_ignored(infinity: Caller) -> None:
    fields: dict[str, Any] = {"output_dimension": 2, "input_type": "query", "prompt": ["x"]}

    assert np.allclose(await infinity.vectors(["a"], **fields), await infinity.vectors(["a"]), atol=1e-5)


async def test_the_largest_list_and_the_longest_text_pass(infinity: Caller) -> None:
    many = await infinity.vectors(["a"] * 2048, encoding_format="base64", dimensions=1)
    long = await infinity.embed([f" {'🙂' * 122_880} "], dimensions=1)

    assert len(many) == 2048
    assert long.body["usage"]["prompt_tokens"] == 122_880


LIST = "list[constrained-str]"
ONE = ["body", "text", "input", "constrained-str"]


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({}, [("missing", ["body", "text", "input"])]),
        ({"input": None}, [("list_type", ["body", "text", "input", LIST]), ("string_type", ONE)]),
        ({"input": []}, [("too_short", ["body", "text", "input", LIST]), ("string_type", ONE)]),
        ({"input": ["a"] * 2049}, [("too_long", ["body", "text", "input", LIST]), ("string_type", ONE)]),
        (
            {"input": ["a", "a" * 122_881]},
            [("string_too_long", ["body", "text", "input", LIST, 1]), ("string_type", ONE)],
        ),
        (
            {"input": [1, 2]},
            [
                ("string_type", ["body", "text", "input", LIST, 0]),
                ("string_type", ["body", "text", "input", LIST, 1]),
                ("string_type", ONE),
            ],
        ),
        ({"input": [[1, 2]]}, [("string_type", ["body", "text", "input", LIST, 0]), ("string_type", ONE)]),
        ({"input": "a", "model": None}, [("string_type", ["body", "text", "model"])]),
        ({"input": "a", "encoding_format": None}, [("enum", ["body", "text", "encoding_format"])]),
        ({"input": "a", "encoding_format": "int8"}, [("enum", ["body", "text", "encoding_format"])]),
        ({"input": "a", "dimensions": None}, [("int_type", ["body", "text", "dimensions"])]),
        ({"input": "a", "dimensions": 1.5}, [("int_from_float", ["body", "text", "dimensions"])]),
        ({"input": "a", "dimensions": "many"}, [("int_parsing", ["body", "text", "dimensions"])]),
        ({"input": "a", "user": 5}, [("string_type", ["body", "text", "user"])]),
        ({"input": "a", "modality": "video"}, [("union_tag_invalid", ["body"])]),
        ({"input": "a", "modality": None}, [("union_tag_not_found", ["body"])]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_embeddings_refuse_invalid_fields(
    infinity: Caller, fields: Mapping[str, object], problems: Sequence[tuple[str, list[str | int]]]
) -> None:
    reply = await infinity.post("/embeddings", {"model": "bert", **fields})

    assert reply.problems == problems


async def test_several_vectors_a_text_are_nested_and_cut_by_their_number(infinity: Caller) -> None:
    [whole] = await infinity.vectors(["hello world"], "colbert")
    [cut] = await infinity.vectors(["hello world"], "colbert", dimensions=2)
    [coded] = await infinity.vectors(["hello world"], "colbert", encoding_format="base64")
    refused = await infinity.embed(["hello world"], "colbert", dimensions=5)

    assert len(whole) == 4  # Two words and the two tokens at the ends.
    assert np.allclose(cut, whole[:2], atol=1e-5)
    assert np.allclose(decoded(coded), np.ravel(whole), atol=1e-5)  # How wide they were is lost.
    assert refused.error(400).endswith("Select between 1 and 4.")


async def test_bit_vectors_are_whole_floats_and_never_base64(infinity: Caller) -> None:
    [packed] = await infinity.vectors(["text"], "bert-bits")
    refused = await infinity.embed(["text"], "bert-bits", encoding_format="base64")

    assert all(isinstance(byte, float) and byte.is_integer() and 0 <= byte <= 255 for byte in packed)
    assert await infinity.vectors(["text"], "bert-bits", dimensions=1) == [packed[:1]]
    assert refused.error(500) == (
        "InternalServerError: model bert-bits does not support base64 encoding, "
        "as it uses uint8-bitpacking with EmbeddingDtype.ubinary"
    )


# Which model


@pytest.mark.parametrize("named", [{"model": "nobody"}, {}])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/embeddings", {"input": "a"}),
        ("/rerank", {"query": "a", "documents": ["a"]}),
        ("/classify", {"input": ["a"]}),
    ],
)
async def test_several_models_refuse_an_unknown_name(
    infinity: Caller, path: str, fields: Mapping[str, object], named: Mapping[str, str]
) -> None:
    message = (await infinity.post(path, {**fields, **named})).error(400)

    name = named.get("model", "default/not-specified")
    assert message == (
        f"Invalid model: Engine for model name `{name}` not found. Available model names are {NAMES}"
    )


@pytest.mark.parametrize(
    ("path", "fields", "capability", "purpose"),
    [
        ("/embeddings", {"model": "cross", "input": "a"}, "embed", "`embed` for modality `text`"),
        (
            "/embeddings",
            {"model": "bert", "input": png(4, 4), "modality": "image"},
            "image_embed",
            "`embed` for modality `image`",
        ),
        (
            "/embeddings",
            {"model": "clip", "input": wav(4), "modality": "audio"},
            "audio_embed",
            "`embed` for modality `audio`",
        ),
        ("/embeddings_image", {"model": "bert", "input": png(4, 4)}, "image_embed", "`image_embed`"),
        ("/embeddings_audio", {"model": "bert", "input": wav(4)}, "audio_embed", "`audio_embed`"),
        ("/rerank", {"model": "bert", "query": "a", "documents": ["a"]}, "rerank", "`rerank`"),
        ("/classify", {"model": "bert", "input": ["a"]}, "classify", "`classify`"),
    ],
)
async def test_a_model_refuses_what_it_cannot_do(
    infinity: Caller, path: str, fields: Mapping[str, object], capability: str, purpose: str
) -> None:
    message = (await infinity.post(path, fields)).error(400)

    assert message.startswith(
        f"ModelNotDeployedError: model=`{fields['model']}` does not support {purpose}. "
        f"Reason: the loaded moded cannot fullyfill `{capability}`. Options are {{'"
    )


async def test_models_are_listed_with_what_they_can_do(infinity: Caller) -> None:
    reply = await infinity.get("/models")

    assert reply.status == 200
    assert reply.body.keys() == {"data", "object"}
    assert reply.body["object"] == "list"
    assert [model["id"] for model in reply.body["data"]] == NAMES
    for model in reply.body["data"]:
        assert model.keys() == {"id", "stats", "object", "owned_by", "created", "backend", "capabilities"}
        assert (model["object"], model["owned_by"], model["backend"]) == ("model", "infinity", "torch")
        assert model["stats"] == {
            "queue_fraction": 0.0,
            "queue_absolute": 0,
            "results_pending": 0,
            "batch_size": 32,
        }
    assert {model["id"]: set(model["capabilities"]) for model in reply.body["data"]} == {
        "bert": {"embed"},
        "cross": {"rerank"},
        "classifier": {"classify"},
        "clip": {"embed", "image_embed"},
        "clap": {"embed", "audio_embed"},
        "colbert": {"embed"},
        "bert-tokens": {"embed"},
        "bert-bits": {"embed"},
    }


async def test_health_is_a_time(infinity: Caller) -> None:
    reply = await infinity.get("/health")

    assert reply.status == 200
    assert reply.body.keys() == {"unix"}
    assert isinstance(reply.body["unix"], float)


# /rerank and /classify

DOCUMENTS = ["about cats", " a dog ", "the weather in Munich", "stocks and bonds", ""]


async def test_rerank_sorts_by_score(infinity: Caller) -> None:
    reply = await infinity.rerank(" what is a cat? ", DOCUMENTS)

    assert reply.status == 200
    assert reply.body.keys() == (ENVELOPE - {"data"}) | {"results"}
    assert (reply.body["object"], reply.body["model"]) == ("rerank", "cross")
    results = reply.body["results"]
    assert all(result.keys() == {"relevance_score", "index", "document"} for result in results)
    assert all(result["document"] is None for result in results)
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert len({round(score, 4) for score in scores}) == len(DOCUMENTS)
    assert sorted(result["index"] for result in results) == [0, 1, 2, 3, 4]


async def test_rerank_counts_the_query_once_a_document(infinity: Caller) -> None:
    query, documents = " what is a cat? ", ["about cats", " a dog "]

    for top_n in (None, 1):
        reply = await infinity.rerank(query, documents, top_n=top_n)
        assert reply.body["usage"] == {"prompt_tokens": 2 * 14 + 10 + 5, "total_tokens": 2 * 14 + 10 + 5}


async def test_raw_scores_are_the_logits_of_the_scores(infinity: Caller) -> None:
    scores = (await infinity.rerank("cat", DOCUMENTS)).body["results"]
    logits = (await infinity.rerank("cat", DOCUMENTS, raw_scores=True)).body["results"]

    assert [result["index"] for result in logits] == [result["index"] for result in scores]
    assert [1 / (1 + math.exp(-result["relevance_score"])) for result in logits] == pytest.approx(
        [result["relevance_score"] for result in scores], abs=1e-4
    )
    spread = [result["relevance_score"] for result in logits]
    assert max(spread) - min(spread) > 1


@pytest.mark.parametrize(("top_n", "count"), [(2, 2), ("2", 2), (99, 5), (None, 5)])
async def test_top_n_keeps_the_best(infinity: Caller, top_n: object, count: int) -> None:
    every = (await infinity.rerank("cat", DOCUMENTS)).body["results"]
    best = (await infinity.rerank("cat", DOCUMENTS, top_n=top_n)).body["results"]

    assert [result["index"] for result in best] == [result["index"] for result in every[:count]]


@pytest.mark.parametrize("asked", [True, "yes", 1])
async def test_documents_come_back_trimmed_and_as_plain_strings(infinity: Caller, asked: object) -> None:
    reply = await infinity.rerank("cat", DOCUMENTS, return_documents=asked)

    assert all(result["document"] == DOCUMENTS[result["index"]].strip() for result in reply.body["results"])


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({}, [("missing", ["body", "query"]), ("missing", ["body", "documents"])]),
        ({"query": "q", "documents": []}, [("too_short", ["body", "documents"])]),
        ({"query": "q", "documents": ["a"] * 2049}, [("too_long", ["body", "documents"])]),
        ({"query": "q", "documents": "a"}, [("list_type", ["body", "documents"])]),
        ({"query": "q", "documents": [{"text": "a"}]}, [("string_type", ["body", "documents", 0])]),
        ({"query": "q" * 122_881, "documents": ["a"]}, [("string_too_long", ["body", "query"])]),
        ({"query": "q", "documents": ["a"], "top_n": 0}, [("greater_than", ["body", "top_n"])]),
        ({"query": "q", "documents": ["a"], "top_n": 1.5}, [("int_from_float", ["body", "top_n"])]),
        ({"query": "q", "documents": ["a"], "raw_scores": None}, [("bool_type", ["body", "raw_scores"])]),
        (
            {"query": "q", "documents": ["a"], "return_documents": "maybe"},
            [("bool_parsing", ["body", "return_documents"])],
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_rerank_refuses_invalid_fields(
    infinity: Caller, fields: Mapping[str, object], problems: Sequence[tuple[str, list[str | int]]]
) -> None:
    reply = await infinity.post("/rerank", {"model": "cross", **fields})

    assert reply.problems == problems


@pytest.mark.parametrize("raw_scores", [True, False])
async def test_classify_gives_every_label_a_share(infinity: Caller, raw_scores: bool) -> None:
    body = {"model": "classifier", "input": [" a dog ", "weather"], "raw_scores": raw_scores}
    reply = await infinity.post("/classify", body)

    assert reply.status == 200
    assert reply.body.keys() == ENVELOPE
    assert (reply.body["object"], reply.body["model"]) == ("classify", "classifier")
    assert reply.body["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert len(reply.body["data"]) == 2
    for classes in reply.body["data"]:
        assert {one["label"] for one in classes} == {"negative", "neutral", "positive"}
        scores = [one["score"] for one in classes]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "problem"), [("a dog", "list_type"), ([], "too_short"), (["a"] * 2049, "too_long")]
)
async def test_classify_takes_lists_only(infinity: Caller, texts: object, problem: str) -> None:
    reply = await infinity.post("/classify", {"model": "classifier", "input": texts})

    assert reply.problems == [(problem, ["body", "input"])]


# Images and recordings


async def test_images_are_embedded(infinity: Caller) -> None:
    tall, wide = png(8, 50), png(40, 30)

    reply = await infinity.embed([tall, wide], "clip", modality="image")
    coded = await infinity.embed(wide, "clip", modality="image", encoding_format="base64", dimensions=3)
    old = await infinity.post("/embeddings_image", {"model": "clip", "input": [wide], "dimensions": 3})

    assert reply.status == 200
    assert reply.body.keys() == ENVELOPE
    assert reply.body["usage"]["total_tokens"] == 2 * 29 + 5 * (50 + 30)  # By height.
    vectors = [row["embedding"] for row in reply.body["data"]]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert np.allclose(decoded(coded.body["data"][0]["embedding"]), vectors[1][:3], atol=1e-5)
    assert np.allclose(old.body["data"][0]["embedding"], vectors[1], atol=1e-5)  # Knows no `dimensions`.


async def test_recordings_are_embedded(infinity: Caller) -> None:
    reply = await infinity.embed([wav(400)], "clap", modality="audio", encoding_format="base64")
    old = await infinity.post("/embeddings_audio", {"model": "clap", "input": wav(400)})

    assert reply.status == 200
    assert reply.body["usage"]["total_tokens"] == 29 + 5 * 400  # By samples.
    [vector] = [decoded(row["embedding"]) for row in reply.body["data"]]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.allclose(old.body["data"][0]["embedding"], vector, atol=1e-5)


@pytest.mark.parametrize("model", ["clip", "clap"])
async def test_models_of_images_and_sounds_embed_texts_too(infinity: Caller, model: str) -> None:
    [picture_or_sound] = await infinity.vectors(["a dog"], model)

    assert np.linalg.norm(picture_or_sound) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "modality", "medium", "fault"),
    [
        ("clip", "image", "data:image/png;base64,AAAA", "ImageCorruption"),
        ("clip", "image", png(2, 2), "ImageCorruption"),
        ("clip", "image", "http://127.0.0.1:9/a.png", "ImageCorruption"),
        ("clap", "audio", "data:audio/wav;base64,AAAA", "AudioCorruption"),
        ("clap", "audio", wav(400, rate=8_000), "AudioCorruption"),
    ],
)
async def test_broken_media_are_refused(
    infinity: Caller, model: str, modality: str, medium: str, fault: str
) -> None:
    replies = [
        await infinity.embed([medium], model, modality=modality),
        await infinity.post(f"/embeddings_{modality}", {"model": model, "input": medium}),
    ]

    for reply in replies:
        assert reply.error(400).startswith(f"<class 'infinity_emb.primitives.{fault}'> -> ")


@pytest.mark.parametrize(
    "media",
    [[], [png(4, 4)] * 33, "a", ["data:image/png;base64,A"], [1]],
    ids=["none", "too many", "text", "broken base64", "number"],
)
async def test_what_is_no_medium_or_too_many_is_refused(infinity: Caller, media: object) -> None:
    reply = await infinity.embed(media, "clip", modality="image")

    assert all(place[:3] == ["body", "image", "input"] for _, place in reply.problems)


# Below the fields


@pytest.mark.parametrize(
    ("raw", "content_type", "problem"),
    [
        (b"{bad", "application/json", ("json_invalid", ["body", 1])),
        (b"", "application/json", ("missing", ["body"])),
        (b"[1]", "application/json", ("model_attributes_type", ["body", "text"])),
        (b"null", "application/json", ("model_attributes_type", ["body", "text"])),
        (b'{"model":"bert","input":"a"}', "text/plain", ("model_attributes_type", ["body", "text"])),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    infinity: Caller, raw: bytes, content_type: str, problem: tuple[str, list[str | int]]
) -> None:
    reply = await infinity.post("/embeddings", raw, **{"Content-Type": content_type})

    assert reply.problems == [problem]


@pytest.mark.parametrize("field", [b'"input":"\\ud800"', b'"input":"a","dimensions":NaN'])
async def test_what_it_cannot_echo_is_an_error_of_the_server(infinity: Caller, field: bytes) -> None:
    """Half a surrogate pair is invalid; the 422 that says so cannot be written as UTF-8."""
    reply = await infinity.post("/embeddings", b'{"model":"bert",' + field + b"}")

    assert (reply.status, reply.body) == (500, "Internal Server Error")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_other_paths_and_methods_are_refused(infinity: Caller, url: str) -> None:
    nowhere = await infinity.post("/v1/embeddings", {})
    wrong = await infinity.get("/embeddings")
    slash = await infinity.post("/embeddings/", {})
    root = await infinity.get("/")

    assert (nowhere.status, nowhere.body) == (404, {"detail": "Not Found"})
    assert (wrong.status, wrong.body) == (405, {"detail": "Method Not Allowed"})
    assert wrong.headers["Allow"] == "POST"
    assert (slash.status, slash.headers["Location"]) == (307, f"{url}/embeddings")
    assert (root.status, root.headers["Location"]) == (307, "/docs")


# A key, a prefix, one model


async def test_one_model_answers_to_every_name(locked: Caller) -> None:
    for named in ({}, {"model": "nobody"}):
        reply = await locked.post("/v1/embeddings", {"input": ["ab"], **named}, Authorization="Bearer secret")
        assert reply.body["model"] == "debug"
        assert len(reply.body["data"][0]["embedding"]) == 13


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("", 401),
    ],
)
async def test_the_key_is_asked_for(locked: Caller, authorization: str, status: int) -> None:
    models = await locked.get("/v1/models", Authorization=authorization)
    vectors = await locked.post("/v1/embeddings", {"input": ["ab"]}, Authorization=authorization)

    for reply in (models, vectors):
        assert reply.status == status
        if status == 401:
            assert reply.body == {"detail": "Unauthorized"}
            assert reply.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/rerank", "/v1/classify", "/v1/embeddings_image", "/v1/embeddings_audio"],
)
async def test_the_key_is_asked_for_before_the_fields_and_after_the_json(locked: Caller, path: str) -> None:
    assert (await locked.post(path, {})).status == 401
    assert (await locked.post(path, b"{bad")).status == 422


async def test_health_needs_neither_key_nor_prefix(locked: Caller) -> None:
    assert (await locked.get("/health")).status == 200
    assert (await locked.get("/v1/health")).status == 404
    assert (await locked.post("/embeddings", {})).status == 404

"""Real servers, a real gateway process, real sockets: everybody gets the answer that Infinity would give."""

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.api.caller import Caller, Reply
from tests.api.media import orange, tone
from tests.gateway_process import GatewayProcess
from tests.real_infinity import RealInfinity

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLOSE = 1e-4
"""Padding and the order of sums change the last digits, and nothing else may."""

WORDS = ["river", "stone", "cloud", "ember", "willow", "harbor", "lantern", "meadow", "copper", "thunder"]
DOCUMENTS = ["about cats", " a dog ", "the weather in Munich", "stocks and bonds", "", "kittens " * 30]


def sentences(count: int) -> list[str]:
    """Distinct, of 2 to 13 words, the same in every run."""
    rng = random.Random(7997)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for i in range(count)]


async def in_parallel(callers: int, work: Sequence[Any]) -> list[Any]:
    """Awaits what stands in `work`, so many at a time, each caller one after another."""
    results: list[Any] = [None] * len(work)
    todo = iter(enumerate(work))

    async def one_caller() -> None:
        for i, make in todo:
            results[i] = await make()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(one_caller())
    return results


async def test_everybody_gets_its_own_vectors(
    caller: Caller, direct: Caller, servers: list[RealInfinity]
) -> None:
    """Thousands of distinct texts from 64 callers, in calls of one to forty, over both servers."""
    texts, rng = sentences(2500), random.Random(1)
    pieces, at = [], 0
    while at < len(texts):
        size = rng.choice([1, 1, 1, 1, 2, 3, 5, 9, 17, 40])
        pieces.append(texts[at : at + size])
        at += size
    expected = np.array((await direct_vectors(direct, texts)), dtype=np.float32)

    before = await caller.samples()
    replies = await in_parallel(64, [lambda piece=piece: caller.embed(piece) for piece in pieces])
    after = await caller.samples()

    found = np.array([vector for reply in replies for vector in reply.vectors], dtype=np.float32)
    assert np.abs(found - expected).max() < CLOSE
    # Each is nearer to the vector of its own text than to that of any other.
    assert (np.argmax(found @ expected.T, axis=1) == np.arange(len(texts))).all()
    batches = after.total("batch_items_count", model="bert") - before.total("batch_items_count", model="bert")
    assert len(texts) / batches > 4
    assert [reply.body["usage"]["total_tokens"] for reply in replies] == [
        sum(map(len, piece)) for piece in pieces
    ]
    for server in servers:
        assert after.total("batch_items_sum", model="bert", deployment=f"127.0.0.1:{server.port}") > 300


async def direct_vectors(direct: Caller, texts: list[str]) -> list[list[float]]:
    replies = [
        await direct.post(
            "/embeddings", {"model": "bert", "input": texts[i : i + 500], "encoding_format": "base64"}
        )
        for i in range(0, len(texts), 500)
    ]
    return [vector for reply in replies for vector in reply.vectors]


async def test_single_texts_from_64_connections_form_batches(
    caller: Caller, servers: list[RealInfinity]
) -> None:
    """As many as the servers leave time for, and both get some."""
    texts = sentences(1600)

    before = await caller.samples()
    await in_parallel(64, [lambda text=text: caller.embed(text) for text in texts])
    after = await caller.samples()

    def grown(name: str, **labels: object) -> float:
        return after.total(name, model="bert", **labels) - before.total(name, model="bert", **labels)

    items = [grown("batch_items_sum", deployment=f"127.0.0.1:{server.port}") for server in servers]
    assert sum(items) == len(texts)
    assert grown("batch_items_sum") / grown("batch_items_count") > 3
    # Alone on a machine within 10 per cent (benchmarks/); who is slower for a moment rightly gets less.
    assert min(items) > len(texts) / 10


# Rerank


async def test_scores_are_infinitys(caller: Caller, direct: Caller) -> None:
    """In the same order, with the same usage."""
    body = {"model": "cross", "query": " what is a cat? ", "documents": DOCUMENTS}

    ours, theirs = await caller.post("/rerank", body), await direct.post("/rerank", body)

    assert_same_ranking(ours, theirs)
    assert ours.body["usage"] == theirs.body["usage"]


@pytest.mark.parametrize(
    ("model", "fields", "raw"),
    [
        ("cross", {}, False),
        ("cross", {"raw_scores": False}, False),
        ("cross", {"raw_scores": True}, True),
        ("cross-raw", {}, True),
        ("cross-raw", {"raw_scores": True}, True),
        ("cross-raw", {"raw_scores": False}, False),
    ],
    ids=["default", "false", "from the body", "from the configuration", "both", "body over configuration"],
)
async def test_raw_scores_are_seen_in_the_logits(
    caller: Caller, direct: Caller, model: str, fields: dict[str, bool], raw: bool
) -> None:
    """A logit is no probability, and the sigmoid of one is the other."""
    documents = ["about cats", "a dog", "the weather in Munich", "stocks and bonds"]

    reply = await caller.rerank("cat", documents, model, **fields)

    logits = dict((await direct.post("/rerank", asked("cat", documents, raw_scores=True))).ranking)
    scores = dict((await direct.post("/rerank", asked("cat", documents))).ranking)
    assert any(not 0 <= logit <= 1 for logit in logits.values())
    assert dict(reply.ranking) == pytest.approx(logits if raw else scores, abs=CLOSE)
    assert [1 / (1 + math.exp(-logits[i])) for i in range(4)] == pytest.approx(
        [scores[i] for i in range(4)], abs=1e-3
    )


def asked(query: str, documents: Sequence[str], **fields: object) -> dict[str, object]:
    return {"model": "cross", "query": query, "documents": documents, **fields}


async def test_the_best_come_with_their_documents(caller: Caller, direct: Caller) -> None:
    """top_n and return_documents together, as objects and, for LiteLLM, as strings."""
    body = asked("cat", DOCUMENTS, top_n=3, return_documents=True)

    ours = await caller.post("/v1/rerank", body)
    litellms = await caller.post("/rerank", body, User_Agent="litellm/1.80.0")
    theirs = await direct.post("/rerank", body)

    for reply in (ours, litellms):
        assert_same_ranking(reply, theirs)
    assert [result["document"]["text"] for result in ours.body["results"]] == [
        DOCUMENTS[i] for i, _ in ours.ranking
    ]
    assert [result["document"] for result in litellms.body["results"]] == [
        DOCUMENTS[i] for i, _ in ours.ranking
    ]


async def test_concurrent_queries_do_not_mix(caller: Caller, direct: Caller) -> None:
    """Some equal, some not, with documents that they share."""
    queries = ["what is a cat?", "weather tomorrow", "how to invest"]
    rng, shared = random.Random(3), sentences(60)
    bodies = [asked(rng.choice(queries), rng.sample(shared, rng.randint(1, 45))) for _ in range(60)]
    theirs = {query: dict((await direct.post("/rerank", asked(query, shared))).ranking) for query in queries}

    replies = await in_parallel(30, [lambda body=body: caller.post("/rerank", body) for body in bodies])

    for body, reply in zip(bodies, replies, strict=True):
        scores, documents = theirs[str(body["query"])], list(body["documents"])  # type: ignore[call-overload]
        assert len(reply.ranking) == len(documents)
        assert [score for _, score in reply.ranking] == sorted((s for _, s in reply.ranking), reverse=True)
        for index, score in reply.ranking:
            assert score == pytest.approx(scores[shared.index(documents[index])], abs=CLOSE)


def assert_same_ranking(ours: Reply, theirs: Reply) -> None:
    assert [index for index, _ in ours.ranking] == [index for index, _ in theirs.ranking]
    assert [s for _, s in ours.ranking] == pytest.approx([s for _, s in theirs.ranking], abs=CLOSE)


# Everything else that Infinity does


async def test_classes_are_infinitys(caller: Caller, direct: Caller) -> None:
    """Labels and scores, in the order of the texts."""
    texts = sentences(50)

    ours = (await caller.classify(texts)).body
    theirs = (await direct.post("/classify", {"model": "classifier", "input": texts})).body

    assert ours["usage"] == theirs["usage"]
    for mine, its in zip(ours["data"], theirs["data"], strict=True):
        assert [one["label"] for one in mine] == [one["label"] for one in its]
        assert [one["score"] for one in mine] == pytest.approx([one["score"] for one in its], abs=CLOSE)


@pytest.mark.parametrize(
    ("model", "modality", "media"),
    [("clip", "image", [orange(20), orange(40)]), ("clap", "audio", [tone(400), tone(900, 3)])],
)
@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_media_are_embedded_as_infinity_does(
    caller: Caller, direct: Caller, model: str, modality: str, media: list[str], encoding: str
) -> None:
    """Images and sounds as data URIs, several in a call."""
    body = {"model": model, "input": media, "modality": modality, "encoding_format": encoding}

    ours, theirs = await caller.post("/embeddings", body), await direct.post("/embeddings", body)

    assert np.allclose(ours.vectors, theirs.vectors, atol=CLOSE)
    assert ours.body["usage"] == theirs.body["usage"]


@pytest.mark.parametrize("modality", ["image", "audio"])
async def test_a_broken_medium_is_explained(caller: Caller, modality: str) -> None:
    """In Infinity's words, as an error of the caller."""
    model, kind = ("clip", "image/png") if modality == "image" else ("clap", "audio/wav")

    reply = await caller.embed([f"data:{kind};base64,AAAA"], model, modality=modality)

    assert "Corruption" in reply.error(400)


@pytest.mark.parametrize("model", ["bert", "clip", "clap", "colbert", "bert-bits"])
async def test_texts_are_embedded_by_models_of_every_kind(caller: Caller, direct: Caller, model: str) -> None:
    """Several vectors a text, bits, and texts for models of images and sounds."""
    body = {"model": model, "input": ["hello world", " padded "], "encoding_format": "float"}

    ours, theirs = await caller.post("/v1/embeddings", body), await direct.post("/embeddings", body)

    for mine, its in zip(ours.vectors, theirs.vectors, strict=True):
        assert np.allclose(mine, its, atol=CLOSE)


async def test_encoding_and_dimensions_are_infinitys(caller: Caller, direct: Caller) -> None:
    """base64, floats, fewer dimensions: what the caller gets is what the server would have given."""
    for fields in (
        {},
        {"encoding_format": "base64"},
        {"dimensions": 7},
        {"dimensions": 7, "encoding_format": "base64"},
    ):
        body = {"model": "bert", "input": ["one", "two"], **fields}
        ours, theirs = await caller.post("/embeddings", body), await direct.post("/embeddings", body)

        assert np.allclose(ours.vectors, theirs.vectors, atol=CLOSE)
        kind = {type(row["embedding"]) for row in ours.body["data"]}
        assert kind == {type(row["embedding"]) for row in theirs.body["data"]}


async def test_provider_parameters_are_passed_on(caller: Caller) -> None:
    """A field that only the server can judge: it says so, and the caller is told."""
    refused = await caller.rerank("cat", ["a"], raw_scores="maybe")

    assert "the server refused the input" in refused.error(400)


async def test_what_is_refused_here_would_be_refused_there(
    caller: Caller, direct: Caller, gateway: GatewayProcess
) -> None:
    """Too many, none, too long: the same verdict, and the process is as well as before."""
    for body in (
        {"model": "bert", "input": ["a"] * 2049},
        {"model": "bert", "input": []},
        {"model": "bert", "input": "a" * 200 * 1024},
        {"model": "nobody", "input": "a"},
        {"model": "cross", "input": "a"},
        {"model": "bert", "input": "a", "dimensions": 385},
    ):
        ours, theirs = await caller.post("/v1/embeddings", body), await direct.post("/embeddings", body)
        assert 400 <= ours.status < 500
        assert 400 <= theirs.status < 500

    assert not any("Traceback" in line for line in gateway.output)

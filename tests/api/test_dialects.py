"""The shapes of Cohere, Voyage, Jina, TEI and Azure: what their clients send, and what they read."""

from typing import Any

import pytest

from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED, config, pool
from tests.api.ways import by_asgi, counting_asgi, through
from tests.fakes.infinity import FakeInfinity, FakeModel, logit_of, score_of, vector_of
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

QUERY = "cats"
DOCUMENTS = ["the weather", "about cats", " a dog ", "cats and dogs"]
LITELLM = "litellm/1.83.0"


def ranked(score: Any = score_of) -> list[tuple[int, float]]:
    scores = [score(QUERY, document.strip()) for document in DOCUMENTS]
    return sorted(enumerate(scores), key=lambda pair: -pair[1])


def vectors(*texts: str) -> list[list[float]]:
    return [vector_of(text).tolist() for text in texts]


# Azure's paths, and OpenAI's older ones


@pytest.mark.parametrize("base", ["/engines", "/openai/deployments"])
async def test_the_path_may_name_the_model(caller: Caller, fake: FakeInfinity, base: str) -> None:
    """It wins over the body's, where clients put a name of their own; `api-version` says nothing here."""
    for query, body in (("", {}), ("?api-version=2024-02-01", {"model": "none"}), ("", {"model": "cross"})):
        reply = await caller.post(f"{base}/bert/embeddings{query}", {"input": "one", **body})

        assert reply.vectors == vectors("one")
        assert reply.body["model"] == "bert"


@pytest.mark.parametrize("written", ["BAAI/bge-small", "BAAI%2Fbge-small"])
async def test_a_model_in_the_path_may_hold_slashes(written: str) -> None:
    """Percent-encoded or not. Metrics know the route by its template."""
    async with FakeInfinity([FakeModel("BAAI/bge-small")]) as fake:
        settings = config(pool("BAAI/bge-small", fake), pool("other", fake, model="BAAI/bge-small"))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            reply = await caller.post(f"/openai/deployments/{written}/embeddings", {"input": ["one"]})
            samples = await caller.samples()

    assert reply.vectors == vectors("one")
    route = "/openai/deployments/{model}/embeddings"
    assert samples.value("requests_total", route=route, model="BAAI/bge-small", status=200) == 1


async def test_an_unknown_model_in_the_path_is_told(caller: Caller, fake: FakeInfinity) -> None:
    """As if it stood in the body."""
    reply = await caller.post("/engines/none/embeddings", {"model": "bert", "input": "one"})

    assert "'none' is not known" in reply.error(404)
    assert fake.asked == []


async def test_a_broken_body_is_told_on_paths_with_a_model(caller: Caller, fake: FakeInfinity) -> None:
    assert "not JSON" in (await caller.post("/engines/bert/embeddings", b"{")).error(400)


# Cohere


async def test_cohere_v2_ranks_without_documents(caller: Caller, fake: FakeInfinity) -> None:
    """The fields that its client parses, and no others."""
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "max_tokens_per_doc": None}

    reply = await caller.post("/v2/rerank", body, x_request_id="abc")

    assert reply.ranking == ranked()[:3]
    assert reply.body.keys() == {"id", "results", "meta"}
    assert reply.body["id"] == "infinity-abc"
    assert reply.body["meta"]["api_version"] == {"version": "2"}
    assert all(result.keys() == {"index", "relevance_score"} for result in reply.body["results"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_coheres_paths_echo_objects_to_everybody(caller: Caller, fake: FakeInfinity, path: str) -> None:
    """LiteLLM's `cohere/` and `litellm_proxy/` providers refuse strings there."""
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, "return_documents": True}

    reply = await caller.post(path, body, User_Agent=LITELLM)

    for result in reply.body["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("types", [None, [], ["float"]])
async def test_cohere_embeds_texts(
    caller: Caller, fake: FakeInfinity, version: int, types: list[str] | None
) -> None:
    """v1 gives a bare list unless a type is asked for; v2 always names the type."""
    body = {
        "model": "bert",
        "texts": ["one", " two "],
        "input_type": "search_query",
        "embedding_types": types,
    }

    reply = await caller.post(f"/v{version}/embed", {**body, "truncate": "END"}, x_request_id="abc")

    by_type = version == 2 or bool(types)
    floats = reply.body["embeddings"]["float"] if by_type else reply.body["embeddings"]
    assert floats == [pytest.approx(vector) for vector in vectors("one", "two")]
    assert reply.body["id"] == "infinity-abc"
    assert reply.body["texts"] == ["one", " two "]
    assert reply.body["response_type"] == ("embeddings_by_type" if by_type else "embeddings_floats")
    assert reply.body["meta"] == {
        "api_version": {"version": str(version)},
        "billed_units": {"input_tokens": 6},
    }


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"embedding_types": ["int8"]}, "embedding_types"),
        ({"embedding_types": "float"}, "embedding_types"),
        ({"truncate": "START"}, "truncate"),
        ({"input_type": "image"}, "input_type"),
        ({"images": ["data:,"]}, "images"),
        ({"texts": "one"}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": None}, "texts"),
        ({"output_dimension": 9999}, "dimensions"),
    ],
)
async def test_what_cohere_embeds_differently_is_refused(
    caller: Caller, fake: FakeInfinity, version: int, fields: dict[str, Any], word: str
) -> None:
    """Rather than answered with vectors that are not what was asked for."""
    reply = await caller.post(f"/v{version}/embed", {"model": "bert", "texts": ["one"], **fields})

    assert word in reply.error(400)


async def test_texts_are_what_cohere_embeds(caller: Caller, fake: FakeInfinity) -> None:
    for body in ({"model": "bert"}, {"model": "bert", "inputs": [{"content": []}]}):
        assert "texts is missing" in (await caller.post("/v2/embed", body)).error(400)


async def test_many_vectors_are_written_in_order(caller: Caller, fake: FakeInfinity) -> None:
    """More than are written in one go."""
    texts = [f"text {i}" for i in range(150)]

    cohere = await caller.post("/v2/embed", {"model": "bert", "texts": texts})
    bare = await caller.post("/embed", {"model": "bert", "inputs": texts})
    openai = await caller.embed(texts, encoding_format="base64")

    wanted = [pytest.approx(vector) for vector in vectors(*texts)]
    assert cohere.body["embeddings"]["float"] == wanted
    assert bare.body == wanted
    assert openai.vectors == wanted
    assert [row["index"] for row in openai.body["data"]] == list(range(150))


# Voyage and Jina


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
@pytest.mark.parametrize("fields", [{"top_k": 2}, {"top_k": None}, {"truncation": True}])
async def test_voyages_client_finds_its_data(
    caller: Caller, fake: FakeInfinity, path: str, fields: dict[str, Any]
) -> None:
    """It always sends one of these, if only as null. Documents are strings."""
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, "return_documents": True, **fields}

    reply = await caller.post(path, body)

    kept = fields.get("top_k") or len(DOCUMENTS)
    found = [(row["index"], row["relevance_score"]) for row in reply.body["data"]]
    assert found == reply.ranking == ranked()[:kept]
    assert [row["document"] for row in reply.body["data"]] == [DOCUMENTS[index] for index, _ in found]
    assert reply.body["object"] == "list"
    assert reply.body["usage"]["total_tokens"] > 0
    assert fake.posts[0].body.keys() == {"model", "query", "documents", "return_documents"}


async def test_voyages_data_has_documents_only_if_asked(caller: Caller, fake: FakeInfinity) -> None:
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS, "truncation": None}

    reply = await caller.post("/v1/rerank", body)

    assert all(row.keys() == {"index", "relevance_score"} for row in reply.body["data"])


async def test_jinas_and_voyages_embedding_fields_are_taken(caller: Caller, fake: FakeInfinity) -> None:
    """Where they ask for what the server does anyway, none of them reaches it."""
    jina = {"embedding_type": "base64", "task": "retrieval.query", "normalized": True, "late_chunking": False}
    voyage = {"encoding_format": "base64", "truncation": True, "output_dtype": None, "input_type": "query"}

    for fields in (jina, voyage):
        reply = await caller.embed(["one"], **fields)

        assert isinstance(reply.body["data"][0]["embedding"], str)
        assert reply.vectors == vectors("one")
    assert all(r.body.keys() == {"model", "input", "encoding_format"} for r in fake.posts)


@pytest.mark.parametrize(
    "fields", [{"embedding_type": "binary"}, {"late_chunking": True}, {"normalized": False}]
)
async def test_what_would_be_silently_wrong_is_refused(
    caller: Caller, fake: FakeInfinity, fields: dict[str, Any]
) -> None:
    reply = await caller.embed(["one"], **fields)

    assert next(iter(fields)) in reply.error(400)
    assert fake.asked == []


# Text Embeddings Inference


@pytest.mark.parametrize("inputs", ["one", ["one", "two"]])
async def test_tei_embeds_into_a_bare_list(caller: Caller, fake: FakeInfinity, inputs: Any) -> None:
    """Also of a single text, and with all that its clients send."""
    fields = {"truncate": True, "normalize": True, "truncation_direction": "Right", "prompt_name": None}

    reply = await caller.post("/embed", {"model": "bert", "inputs": inputs, **fields})

    texts = [inputs] if isinstance(inputs, str) else inputs
    assert reply.body == [pytest.approx(vector) for vector in vectors(*texts)]
    assert fake.posts[0].body.keys() == {"model", "input", "encoding_format"}


async def test_tei_names_no_model() -> None:
    """It serves one; so the only one is meant."""
    async with FakeInfinity([FakeModel("bert"), FakeModel("cross", ("rerank",))]) as fake:
        settings = config(pool("bert", fake), pool("cross", fake))
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            embedded = await caller.post("/embed", {"inputs": ["one"]})
            scored = await caller.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})

    assert embedded.body == [pytest.approx(vector) for vector in vectors("one")]
    assert [(rank["index"], rank["score"]) for rank in scored.body] == ranked()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"normalize": False}, "normalize"),
        ({"normalize": "yes"}, "normalize"),
        ({"truncate": 1}, "truncate"),
        ({"truncation_direction": "Left"}, "truncation_direction"),
        ({"prompt_name": "sts"}, "prompt_name"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [1, 2]}, "token ids"),
        ({"inputs": [["a", "b"]]}, "inputs[0]"),
        ({"inputs": None}, "inputs"),
        ({"dimensions": 9999}, "dimensions"),
        ({"api_key": "x"}, "api_key"),
    ],
)
async def test_what_tei_embeds_differently_is_refused(
    caller: Caller, fake: FakeInfinity, fields: dict[str, Any], word: str
) -> None:
    reply = await caller.post("/embed", {"model": "bert", "inputs": ["one"], **fields})

    assert word in reply.error(400)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
@pytest.mark.parametrize("raw", [True, False])
async def test_tei_ranks_into_a_bare_list(caller: Caller, fake: FakeInfinity, path: str, raw: bool) -> None:
    """Best first, whoever asks."""
    body = {"model": "cross", "query": QUERY, "texts": DOCUMENTS, "raw_scores": raw, "truncate": True}

    reply = await caller.post(path, body, User_Agent=LITELLM)

    wanted = ranked(logit_of if raw else score_of)
    assert reply.body == [{"index": index, "score": score} for index, score in wanted]


async def test_tei_returns_texts_as_they_came(caller: Caller, fake: FakeInfinity) -> None:
    body = {"model": "cross", "query": QUERY, "texts": DOCUMENTS, "return_text": True}

    reply = await caller.post("/rerank", body)

    assert [rank["text"] for rank in reply.body] == [DOCUMENTS[index] for index, _ in ranked()]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"documents": DOCUMENTS}, "not both"),
        ({"documents": None}, "not both"),
        ({"texts": None}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": [{"text": "a"}]}, "texts[0]"),
        ({"query": None}, "query"),
        ({"return_text": 1}, "return_text"),
        ({"truncation_direction": "left"}, "truncation_direction"),
    ],
)
async def test_what_tei_would_not_rank_is_refused(
    caller: Caller, fake: FakeInfinity, fields: dict[str, Any], word: str
) -> None:
    reply = await caller.post("/rerank", {"model": "cross", "query": QUERY, "texts": DOCUMENTS, **fields})

    assert word in reply.error(400)
    assert fake.asked == []


async def test_texts_are_no_documents_on_coheres_second_path(caller: Caller, fake: FakeInfinity) -> None:
    """Its shape is certain there."""
    reply = await caller.post("/v2/rerank", {"model": "cross", "query": QUERY, "texts": DOCUMENTS})

    assert "documents is missing" in reply.error(400)


# The list of models as LiteLLM has it


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info"])
async def test_model_info_tells_modes_and_no_addresses(caller: Caller, fake: FakeInfinity, path: str) -> None:
    reply = await caller.get(path)

    modes = {model["model_name"]: model["model_info"]["mode"] for model in reply.body["data"]}
    assert modes == {model.name: _mode(model) for model in fake.models}
    assert all(
        model["litellm_params"] == {"model": f"infinity/{model['model_name']}"}
        for model in reply.body["data"]
    )
    assert str(fake.port).encode() not in reply.raw


def _mode(model: FakeModel) -> str:
    return {"rerank": "rerank", "classify": "classify"}.get(model.capabilities[0], "embedding")


# Both ways from the parser


FIXED: dict[str, dict[str, Any]] = {
    "/v2/rerank": {"model": "cross", "query": QUERY, "documents": DOCUMENTS},
    "/v1/embed": {"model": "bert", "texts": ["one"]},
    "/v2/embed": {"model": "bert", "texts": ["one"]},
    "/embed": {"model": "bert", "inputs": "one"},
    "/infinity/embeddings": {"model": "bert", "input": "one"},
    "/infinity/v1/embeddings": {"model": "bert", "input": "one"},
    "/infinity/rerank": {"model": "cross", "query": QUERY, "documents": DOCUMENTS},
    "/infinity/classify": {"model": "classifier", "input": ["one"]},
}


@pytest.mark.parametrize("path", FIXED)
async def test_fixed_paths_go_the_direct_way_and_both_answer_alike(
    shared_fake: FakeInfinity, gateway: GatewayInProcess, path: str
) -> None:
    """Good bodies, broken ones, and unknown models."""
    unknown = {**FIXED[path], "model": "none"}
    with through(by_asgi):
        other = GatewayInProcess(gateway.runtime.config)
        async with other, Caller(other.url) as slow, Caller(gateway.url) as quick:
            for body in (FIXED[path], unknown, b"{", b"[]"):
                with counting_asgi() as counted:
                    one = await quick.post(path, body, x_request_id="abc")
                assert counted == []
                with counting_asgi() as counted:
                    two = await slow.post(path, body, x_request_id="abc")
                assert counted == [path]
                assert _steady(one) == _steady(two)


def _steady(reply: Reply) -> tuple[int, Any, set[str]]:
    body = reply.body
    if isinstance(body, dict):
        body.pop("created", None)
    return reply.status, body, {name.lower() for name in reply.headers}


async def test_a_model_in_the_path_goes_through_asgi(caller: Caller, fake: FakeInfinity) -> None:
    """The direct way knows whole paths only."""
    with counting_asgi() as counted:
        await caller.post("/engines/bert/embeddings", {"input": "one"})

    assert counted == ["/engines/bert/embeddings"]

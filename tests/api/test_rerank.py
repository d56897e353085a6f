"""`POST /rerank` in Cohere's shape, and in Infinity's for those who take no other."""

from typing import Any

import pytest

from tests.api.caller import Caller
from tests.api.configs import SHARED, config, pool
from tests.fakes.infinity import FakeInfinity, FakeModel, logit_of, score_of, vector_of
from tests.fakes.vectors import Vector
from tests.gateway_in_process import GatewayInProcess

pytestmark = SHARED

DOCUMENTS = ["about cats", " a dog ", "the weather in Munich", "stocks and bonds", ""]
QUERY = " what is a cat? "
LITELLM = "litellm/1.80.0"


def ranked(query: str, documents: list[str], score: Any = score_of) -> list[tuple[int, float]]:
    """What Infinity would answer."""
    scored = [(i, score(query, document)) for i, document in enumerate(documents)]
    return sorted(scored, key=lambda pair: pair[1], reverse=True)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
async def test_an_answer_is_coheres_with_usage_beside_meta(
    caller: Caller, fake: FakeInfinity, path: str
) -> None:
    """Sorted by score, with the count of tokens where each kind of client looks for it."""
    body = {"model": "cross", "query": QUERY, "documents": DOCUMENTS}
    reply = await caller.post(path, body, x_request_id="abc")

    charged = 5 * len(QUERY.strip()) + sum(len(document.strip()) for document in DOCUMENTS)
    assert reply.ranking == ranked(QUERY, DOCUMENTS)
    assert reply.body.keys() == {"object", "results", "model", "usage", "meta", "id", "created"}
    assert (reply.body["object"], reply.body["model"], reply.body["id"]) == (
        "rerank",
        "cross",
        "infinity-abc",
    )
    assert reply.body["usage"] == {"prompt_tokens": charged, "total_tokens": charged}
    assert reply.body["meta"] == {
        "billed_units": {"total_tokens": charged},
        "tokens": {"input_tokens": charged, "output_tokens": 0},
    }
    assert all(result.keys() == {"index", "relevance_score"} for result in reply.body["results"])


@pytest.mark.parametrize("asked", [False, None])
async def test_documents_come_only_when_asked_for(caller: Caller, fake: FakeInfinity, asked: object) -> None:
    """The key is not there at all otherwise."""
    for path in ("/rerank", "/v1/rerank"):
        body = {"model": "cross", "query": "q", "documents": ["a"], "return_documents": asked}
        reply = await caller.post(path, body)
        assert reply.body["results"][0].keys() == {"index", "relevance_score"}


@pytest.mark.parametrize(
    ("path", "agent", "strings"),
    [
        ("/rerank", "python-httpx/0.28", False),
        ("/v1/rerank", "python-httpx/0.28", False),
        ("/rerank", LITELLM, True),
        ("/v1/rerank", LITELLM, False),
        ("/rerank", "my litellm/1.0", False),
    ],
)
async def test_documents_are_objects_but_for_litellm(
    caller: Caller, fake: FakeInfinity, path: str, agent: str, strings: bool
) -> None:
    """LiteLLM's `infinity/` provider takes strings alone; on Cohere's own path everybody gets objects."""
    body = {"model": "cross", "query": "q", "documents": [" a ", "b"], "return_documents": True}
    reply = await caller.post(path, body, User_Agent=agent)

    documents = {result["index"]: result["document"] for result in reply.body["results"]}
    sent: dict[int, Any] = {0: " a ", 1: "b"}
    assert documents == (sent if strings else {index: {"text": text} for index, text in sent.items()})


@pytest.mark.parametrize("form", ["string", "object"])
async def test_rerank_documents_overrides_who_asks_and_where(form: str) -> None:
    """An operator whose clients are all of one kind says so."""
    body = {"query": "q", "documents": ["a"], "return_documents": True}
    async with FakeInfinity([FakeModel("cross", ("rerank",))]) as fake:
        settings = config(pool("cross", fake), rerank_documents=form)
        async with GatewayInProcess(settings) as gateway, Caller(gateway.url) as caller:
            replies = [
                await caller.post(path, body, User_Agent=agent)
                for path in ("/rerank", "/v1/rerank")
                for agent in (LITELLM, "curl/8")
            ]

    for reply in replies:
        assert reply.body["results"][0]["document"] == ("a" if form == "string" else {"text": "a"})


@pytest.mark.parametrize("name", ["top_n", "top_k"])
@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 3), (5, 5), (99, 5), (None, 5)])
async def test_the_best_are_kept(
    caller: Caller, fake: FakeInfinity, name: str, count: int | None, kept: int
) -> None:
    """All are charged for, and the server is not told."""
    reply = await caller.rerank(QUERY, DOCUMENTS, **{name: count})

    charged = 5 * len(QUERY.strip()) + sum(len(document.strip()) for document in DOCUMENTS)
    assert reply.ranking == ranked(QUERY, DOCUMENTS)[:kept]
    assert reply.body["usage"]["total_tokens"] == charged
    assert name not in fake.posts[0].body


async def test_the_documents_of_the_best_come_with_them(caller: Caller, fake: FakeInfinity) -> None:
    """Each with its own as it was sent, also after sorting and cutting."""
    reply = await caller.rerank(QUERY, DOCUMENTS, top_n=4, return_documents=True)

    for result in reply.body["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert len(reply.body["results"]) == 4


async def test_documents_may_be_objects_with_a_text(caller: Caller, fake: FakeInfinity) -> None:
    """Cohere v1 takes both, mixed as well, and other fields beside the text."""
    documents = [{"text": "about cats"}, " a dog ", {"text": "the weather in Munich", "title": "x", "n": 1}]

    reply = await caller.rerank(QUERY, documents, return_documents=True, rank_fields=["text"])

    assert reply.ranking == ranked(QUERY, ["about cats", "a dog", "the weather in Munich"])
    assert [sorted(batch) for batch in fake.batches] == [["a dog", "about cats", "the weather in Munich"]]


async def test_equal_scores_keep_the_order_of_the_documents(caller: Caller, fake: FakeInfinity) -> None:
    """As Infinity's own sorting does."""
    documents = ["same", "other", "same", "same", "other"]

    reply = await caller.rerank("q", documents)

    assert reply.ranking == ranked("q", documents)
    assert [index for index, _ in reply.ranking if documents[index] == "same"] == [0, 2, 3]


@pytest.mark.parametrize(("raw_scores", "score"), [(True, logit_of), (False, score_of), (None, score_of)])
async def test_raw_scores_are_the_servers_logits(
    caller: Caller, fake: FakeInfinity, raw_scores: object, score: Any
) -> None:
    """Passed on as they are, when they are given."""
    reply = await caller.rerank(QUERY, DOCUMENTS, raw_scores=raw_scores)

    assert reply.ranking == ranked(QUERY, DOCUMENTS, score)
    assert fake.posts[0].body.get("raw_scores") == raw_scores


async def test_more_documents_than_fit_in_a_batch_are_ranked_together(
    caller: Caller, fake: FakeInfinity
) -> None:
    """Divided among batches, with the query in each, and sorted as one list."""
    documents = [f"document {i}" for i in range(100)]

    reply = await caller.rerank("q", documents, top_n=7)

    assert reply.ranking == ranked("q", documents)[:7]
    assert sorted(map(len, fake.batches)) == [4, 32, 32, 32]
    assert {request.body["query"] for request in fake.posts} == {"q"}


async def test_what_clients_send_besides_changes_nothing(caller: Caller, fake: FakeInfinity) -> None:
    """Cohere's limits that Infinity does not have, and null for what is not meant."""
    fields = {"max_tokens_per_doc": None, "max_chunks_per_doc": 10, "rank_fields": None, "user": "me"}

    reply = await caller.rerank("q", ["a", "b"], **fields)

    assert reply.ranking == ranked("q", ["a", "b"])
    assert fake.posts[0].body.keys() == {"model", "query", "documents", "return_documents"}


async def test_other_fields_of_a_document_cannot_be_ranked_by(caller: Caller, fake: FakeInfinity) -> None:
    """Silently ranking by the text would be a wrong answer."""
    reply = await caller.rerank("q", [{"text": "a", "title": "b"}], rank_fields=["title"])

    assert "rank_fields" in reply.error(400)
    assert fake.asked == []


# With nothing but a model that embeds


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other)


async def test_an_embedding_model_reranks_by_cosine_similarity() -> None:
    """Where that is wanted, the answer says how it was made, and all queries share batches."""
    fake = FakeInfinity([FakeModel("bert")])
    documents = ["about cats", "a dog", "the weather"]
    async with (
        fake,
        GatewayInProcess(config(pool("bert", fake), rerank_by_embedding=True)) as gateway,
        Caller(gateway.url) as caller,
    ):
        reply = await caller.rerank("cats", documents, None, top_n=2)
        listed = await caller.get("/models")

    scores = ranked("cats", documents, lambda q, d: cosine(vector_of(q), vector_of(d)))[:2]
    assert [index for index, _ in reply.ranking] == [index for index, _ in scores]
    assert [score for _, score in reply.ranking] == pytest.approx([score for _, score in scores], abs=1e-6)
    assert "cosine" in reply.body["meta"]["warnings"][0]
    assert reply.body["usage"]["total_tokens"] == len("cats" + "".join(documents))
    assert listed.status == 200


async def test_an_embedding_model_does_not_rerank_unless_told_to(caller: Caller, fake: FakeInfinity) -> None:
    """Scores of another kind than expected would be worse than none."""
    reply = await caller.rerank("q", ["a"], "bert")

    message = reply.error(400)
    assert "cannot rerank" in message
    assert "cross" in message
    assert fake.asked == []

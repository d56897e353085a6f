"""LiteLLM's functions: what goes to the servers, what comes back, and what is said of a bad call."""

import asyncio
import base64
import json
import logging
from typing import Any

import numpy as np
import pytest

from gateway import GatewayError, aembedding, arerank, embedding, rerank
from gateway.errors import BadRequest, CallerError, DeadlineExceeded, NoDeployment, ServerFailed, UnknownModel
from tests.fakes.faults import contains
from tests.fakes.infinity import FakeInfinity, FakeModel, Fault, logit_of, score_of, vector_of
from tests.sdk.conftest import StandIn, standing_in

DOCUMENTS = ["Paris", "London", "Berlin", "Madrid"]
QUERY = "What is the capital of France?"


def best(query: str = QUERY) -> list[int]:
    return sorted(range(len(DOCUMENTS)), key=lambda i: -score_of(query, DOCUMENTS[i]))


# LiteLLM's page, word for word


def test_the_embedding_of_litellms_page(stand_in: StandIn) -> None:
    """The variable is set after the import, and the answer is read by keys."""
    response = embedding(model="infinity/bert", input=["good morning from litellm"])

    assert response.data[0]["embedding"] == vector_of("good morning from litellm").tolist()
    assert response["data"][0].embedding == response.data[0]["embedding"]
    assert response["usage"]["total_tokens"] == response.usage.prompt_tokens == 25
    assert (response.model, response.object, response.data[0].index) == ("bert", "list", 0)


def test_the_rerank_of_litellms_page(stand_in: StandIn) -> None:
    """Documents come back unless they are not wanted."""
    response = rerank(model="infinity/cross", query=QUERY, documents=DOCUMENTS)

    assert [result["index"] for result in response.results] == best()
    assert [result["document"]["text"] for result in response["results"]] == [DOCUMENTS[i] for i in best()]
    assert response.results[0].relevance_score == pytest.approx(score_of(QUERY, DOCUMENTS[best()[0]]))
    assert response.meta["tokens"]["input_tokens"] == response.meta.billed_units.total_tokens > 0
    assert response.id.startswith("infinity-")


def test_raw_scores_reach_the_server(stand_in: StandIn) -> None:
    """The provider's own parameter of LiteLLM's page."""
    response = rerank("infinity/cross", QUERY, DOCUMENTS, raw_scores=True, return_documents=False)

    scores = {result.index: result.relevance_score for result in response.results}
    assert scores == {i: pytest.approx(logit_of(QUERY, text)) for i, text in enumerate(DOCUMENTS)}
    assert [r.body["raw_scores"] for r in stand_in.fake.requests if r.items == DOCUMENTS] == [True]


# What a call may say


async def test_awaited_reranking_returns_no_documents(stand_in: StandIn) -> None:
    """As in LiteLLM, unless it is asked to."""
    plain = await arerank("infinity/cross", QUERY, DOCUMENTS)
    full = await arerank("infinity/cross", QUERY, DOCUMENTS, return_documents=True, top_n=2)

    assert all("document" not in result and result.document is None for result in plain.results)
    assert [result["document"]["text"] for result in full.results] == [DOCUMENTS[i] for i in best()[:2]]


def test_documents_may_be_objects(stand_in: StandIn) -> None:
    """Cohere's `{"text": …}` and texts, mixed, from anything that can be gone through."""
    mixed = ({"text": text} if i % 2 else text for i, text in enumerate(DOCUMENTS))

    response = rerank("cross", QUERY, mixed)

    assert [result.index for result in response.results] == best()
    assert stand_in.asked() == [DOCUMENTS]


def test_a_text_and_a_tuple_are_inputs(stand_in: StandIn) -> None:
    """One vector for each."""
    assert [each.index for each in embedding("bert", "one").data] == [0]
    assert [each.index for each in embedding("bert", ("one", "two")).data] == [0, 1]


def test_base64_is_a_string(stand_in: StandIn) -> None:
    """Little-endian float32, as the server wrote them."""
    response = embedding("bert", ["one"], encoding_format="base64")

    raw = base64.b64decode(response.data[0].embedding)
    assert np.array_equal(np.frombuffer(raw, "<f4"), vector_of("one"))


def test_dimensions_cut_the_vector(stand_in: StandIn) -> None:
    """The first so many numbers."""
    response = embedding("bert", "one", dimensions=3)

    assert response.data[0].embedding == vector_of("one").tolist()[:3]


def test_several_vectors_for_one_input_are_lists(stand_in: StandIn) -> None:
    """One row a token."""
    response = embedding("colbert", "one two")

    assert np.shape(response.data[0].embedding) == (4, 8)


def test_what_is_unknown_here_is_passed_on(stand_in: StandIn) -> None:
    """Alone or in extra_body; LiteLLM's own keys are not, which is told once."""
    embedding("bert", "one", truncate_to=7, extra_body={"kind": "query"}, metadata={"team": "a"}, user="u")

    body = next(request.body for request in stand_in.fake.requests if request.items == ["one"])
    assert (body["truncate_to"], body["kind"]) == (7, "query")
    assert not {"metadata", "user"} & set(body)


def test_litellms_own_parameters_are_told_once(stand_in: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """With their name."""
    for _ in range(2):
        embedding("bert", "one", num_retries=3)

    assert [r.message for r in caplog.records if "no effect" in r.message] == [
        "the parameter num_retries of LiteLLM has no effect here"
    ]


def test_an_answer_is_a_mapping_fit_for_json(stand_in: StandIn) -> None:
    """What is not there is no key."""
    response = rerank("cross", QUERY, DOCUMENTS, return_documents=False)

    assert json.loads(json.dumps(response.model_dump()))["results"][0] == dict(response.results[0])
    assert response.get("warnings", 1) == 1
    with pytest.raises(KeyError, match="document"):
        response.results[0]["document"]


# Which model


def only(name: str, *capabilities: str) -> FakeInfinity:
    return FakeInfinity([FakeModel(name, capabilities or ("embed",))])


def test_an_unknown_name_means_the_only_model(stand_in: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """As on LiteLLM's page, where it is `rerank`. Told once, and the answer says who gave it."""
    responses = [rerank("infinity/rerank", QUERY, DOCUMENTS) for _ in range(2)]

    assert {response.model for response in responses} == {"cross"}
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert told == ["model 'rerank' is not known here; 'cross' answers, the only one that can"]


def test_an_unknown_name_among_several_is_refused(stand_in: StandIn) -> None:
    """With the names that there are."""
    with pytest.raises(UnknownModel, match="model 'nobody' is not known here; known are bert, "):
        embedding("infinity/nobody", "one")


def test_a_model_that_cannot_is_refused(stand_in: StandIn) -> None:
    """Named as such, with those that can."""
    with pytest.raises(BadRequest, match="model 'bert' cannot rerank; these can: cross"):
        rerank("infinity/bert", QUERY, DOCUMENTS)


# Which servers


def test_the_servers_are_those_of_the_moment(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the variable is heeded at once; an argument wins over it."""
    with standing_in(FakeInfinity([FakeModel("bert", seed="other")])) as other:
        before = embedding("bert", "one")
        by_argument = embedding("bert", "one", api_base=other.url)
        monkeypatch.setenv("INFINITY_API_BASE", other.url)
        by_variable = embedding("bert", "one")

    assert before.data[0].embedding == vector_of("one").tolist()
    assert by_argument.data == by_variable.data
    assert by_variable.data[0].embedding == vector_of("one", seed="other").tolist()


def test_a_change_of_key_never_meets_the_old_engine(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call goes with the key that it was made with."""
    embedding("bert", "none")
    embedding("bert", "argument", api_key="k1")
    monkeypatch.setenv("INFINITY_API_KEY", "k2")
    embedding("bert", "variable")
    embedding("bert", "argument again", api_key="k1")
    embedding("bert", "blank", api_key="")

    sent = {r.items[0]: r.headers.get("Authorization") for r in stand_in.fake.requests if r.items}
    wanted = {"none": None, "argument": "k1", "variable": "k2", "argument again": "k1", "blank": None}
    assert {text: sent[text] for text in wanted} == {
        text: f"Bearer {key}" if key else None for text, key in wanted.items()
    }


def test_several_servers_share_the_work(stand_in: StandIn) -> None:
    """Comma-separated; both are asked."""
    with standing_in(FakeInfinity(service=stand_in.fake.worker.service)) as other:
        both = f"{stand_in.url}, {other.url}"
        embedding("bert", "one", api_base=both)
        response = embedding("bert", [f"text {i}" for i in range(200)], api_base=both)

        assert sum(map(len, other.asked())) > 1

    assert sum(map(len, stand_in.asked())) > 1
    assert response.data[199].embedding == vector_of("text 199").tolist()


def test_one_server_of_two_is_enough(stand_in: StandIn) -> None:
    """Whoever is not there holds nobody up."""
    response = embedding("bert", "one", api_base=f"{stand_in.url},http://127.0.0.1:9")

    assert response.data[0].embedding == vector_of("one").tolist()


# What goes wrong


@pytest.mark.parametrize(
    ("wrong", "param", "message"),
    [
        ({"input": [[1, 2]]}, "input", "token ids"),
        ({"input": []}, "input", "at least one item"),
        ({"input": ["a", 7]}, "input", r"input\[1\] must be a string"),
        ({"input": "half a \ud800"}, "input", "cannot be sent as JSON: .*surrogates"),
        ({"input": object()}, "input", "cannot be sent as JSON"),
        ({"encoding_format": "int8"}, "encoding_format", "float or base64"),
        ({"modality": "smell"}, "modality", "text, image or audio"),
        ({"dimensions": 9}, "dimensions", "from 1 to 8"),
        ({"timeout": 0}, "timeout", "seconds above 0, not 0"),
        ({"timeout": "10"}, "timeout", "seconds above 0, not '10'"),
        ({"api_base": "infinity:7997"}, "api_base", "expected http://HOST:PORT"),
        ({"api_base": ""}, "api_base", "no server is named; pass api_base, or set INFINITY_API_BASE"),
        ({"api_bse": "http://a"}, "api_bse", "did you mean api_base"),
        ({"base_url": "http://a"}, "base_url", "did you mean api_base"),
        ({"extra_body": 1}, "extra_body", "must be a mapping"),
        ({"layers": {"a": 1}}, "layers", "must be a string"),
    ],
)
def test_a_bad_call_is_explained(stand_in: StandIn, wrong: dict[str, Any], param: str, message: str) -> None:
    """In the caller's terms, with the parameter at fault, as an error of a findable class."""
    with pytest.raises(CallerError, match=message) as told:
        embedding(**{"model": "bert", "input": "one", **wrong})

    assert isinstance(told.value, GatewayError)
    assert told.value.param == param
    assert not stand_in.asked() or param == "dimensions"


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    """With its address and the reason, since nobody else will mend it."""
    with pytest.raises(NoDeployment, match=r"127\.0\.0\.1:9: no connection: connection refused"):
        embedding("bert", "one", api_base="http://127.0.0.1:9")


def test_a_server_that_refuses_the_key_is_told() -> None:
    """The key itself is not."""
    with (
        standing_in(FakeInfinity(api_key="right")) as closed,
        pytest.raises(NoDeployment, match="does not accept our key") as told,
    ):
        embedding("bert", "one", api_base=closed.url, api_key="hunter2")

    assert "hunter2" not in str(told.value)


def test_a_call_ends_with_its_deadline(stand_in: StandIn) -> None:
    """Whatever its server does."""
    stand_in.fake.faults.append(Fault(hang=True, when=contains("slow")))
    embedding("bert", "one")

    with pytest.raises(DeadlineExceeded):
        embedding("bert", "slow", timeout=0.2)


def test_a_deadline_holds_before_a_server_has_said_anything(stand_in: StandIn) -> None:
    """Also while the models are asked for."""
    stand_in.fake.faults.append(Fault(hang=True, when=lambda request: True))

    with pytest.raises(NoDeployment, match="no server has answered yet"):
        embedding("bert", "one", timeout=0.2)


async def test_each_caller_has_an_error_of_its_own(stand_in: StandIn) -> None:
    """One batch fails for all who share it; raised in each, one error would collect the traces of all."""
    await aembedding("bert", "first")
    stand_in.fake.faults.append(Fault(status=503))

    calls = (aembedding("bert", f"text {i}") for i in range(8))
    errors = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(error) for error in errors} == {ServerFailed}
    assert len({id(error) for error in errors}) == 8
    assert len(stand_in.asked()) < 8

import pytest

from gateway.core.router import UNNAMED, Router, capability
from gateway.core.settings import RouterSettings
from gateway.errors import BadRequest, Forbidden, NoDeployment, UnknownModel
from gateway.messages import Modality, Task

POOLS = {"embedder": {"embed"}, "reranker": {"rerank"}}


def router(
    aliases: dict[str, str] | None = None,
    fallbacks: dict[str, tuple[str, ...]] | None = None,
    default_models: dict[Task, str] | None = None,
) -> Router:
    return Router(RouterSettings(aliases or {}, fallbacks or {}, default_models or {}))


@pytest.mark.parametrize(
    ("task", "modality", "expected"),
    [
        (Task.EMBED, Modality.TEXT, "embed"),
        (Task.RERANK, Modality.TEXT, "rerank"),
        (Task.CLASSIFY, Modality.TEXT, "classify"),
        (Task.EMBED, Modality.IMAGE, "image_embed"),
        (Task.EMBED, Modality.AUDIO, "audio_embed"),
    ],
)
def test_capabilities_have_infinitys_words(task: Task, modality: Modality, expected: str) -> None:
    """They are compared with what a server lists in `/models`."""
    assert capability(task, modality) == expected


def test_a_name_is_the_pool_of_that_name() -> None:
    """The simplest case."""
    assert router().resolve("embedder", "embed", POOLS) == "embedder"


def test_an_alias_is_the_pool_that_it_stands_for() -> None:
    """`text-embedding-3-small: embedder` makes OpenAI's name work."""
    assert router(aliases={"ada": "embedder"}).resolve("ada", "embed", POOLS) == "embedder"


def test_an_unknown_name_is_told_what_is_known() -> None:
    """The error names the models, so that the caller need not ask for them."""
    with pytest.raises(UnknownModel, match=r"'nonsense'.*known are embedder, reranker") as caught:
        router().resolve("nonsense", "embed", POOLS)

    assert caught.value.param == "model"


def test_an_alias_of_a_pool_that_is_not_there_is_unknown() -> None:
    """Servers that are learned may not have told of it."""
    with pytest.raises(UnknownModel):
        router(aliases={"ada": "gone"}).resolve("ada", "embed", POOLS)


def test_a_long_list_of_models_is_cut() -> None:
    """An error is read by people."""
    with pytest.raises(UnknownModel, match="and 80 more"):
        router().resolve("nonsense", "embed", {f"m{i}": {"embed"} for i in range(100)})


def test_without_pools_every_name_may_exist_later() -> None:
    """Before the first server has told its models, a name cannot be called unknown."""
    with pytest.raises(NoDeployment):
        router().resolve("anything", "embed", {})


def test_a_model_that_cannot_do_it_is_refused_with_those_that_can() -> None:
    """Rerank sent to an embedder is the caller's mistake, not the server's."""
    with pytest.raises(BadRequest, match=r"'embedder' cannot rerank; these can: reranker"):
        router().resolve("embedder", "rerank", POOLS)


def test_when_no_model_can_do_it_the_error_says_so() -> None:
    """There is nothing to suggest."""
    with pytest.raises(BadRequest, match="no model here can"):
        router().resolve("embedder", "classify", POOLS)


def test_a_pool_that_has_told_nothing_yet_is_believed_to_be_able() -> None:
    """The pool itself then says that no server is up."""
    assert router().resolve("new", "rerank", {"new": set()}) == "new"


@pytest.mark.parametrize("unnamed", [None, UNNAMED])
def test_a_call_that_names_no_model_goes_to_the_only_one_that_can(unnamed: str | None) -> None:
    """One embedder and one reranker need no names."""
    assert router().resolve(unnamed, "rerank", POOLS) == "reranker"


def test_a_default_model_comes_before_the_only_one() -> None:
    """Where several can, the configuration decides."""
    pools = {"a": {"embed"}, "b": {"embed"}}

    assert router(default_models={Task.EMBED: "b"}).resolve(None, "embed", pools) == "b"


def test_a_default_model_for_one_task_is_none_for_another() -> None:
    """`default_models: {embed: …}` says nothing about rerank."""
    settings = {Task.EMBED: "embedder"}

    assert router(default_models=settings).resolve(None, "rerank", POOLS) == "reranker"


def test_a_call_that_names_no_model_where_several_can_is_refused_with_their_names() -> None:
    """A guess would mix vector spaces."""
    with pytest.raises(BadRequest, match="several can embed text: a, b") as caught:
        router().resolve(None, "embed", {"a": {"embed"}, "b": {"embed"}})

    assert caught.value.param == "model"


def test_a_call_that_names_no_model_where_none_can_is_refused() -> None:
    """All servers have told, and none of them does this."""
    with pytest.raises(BadRequest, match="no model here can classify"):
        router().resolve(None, "classify", POOLS)


@pytest.mark.parametrize("pools", [{}, {"a": set[str](), "b": set[str]()}, {"a": set[str](), "b": {"embed"}}])
def test_a_call_that_names_no_model_waits_for_servers_that_have_not_told(pools: dict[str, set[str]]) -> None:
    """One of them may be able to."""
    with pytest.raises(NoDeployment):
        router().resolve(None, "rerank", pools)


def test_the_only_pool_is_meant_even_before_it_has_told() -> None:
    """It will say itself that it is not up."""
    assert router().resolve(None, "embed", {"only": set()}) == "only"


def test_fallbacks_come_after_the_pool_in_their_order() -> None:
    """The order is the operator's."""
    subject = router(fallbacks={"a": ("b", "c")})

    assert list(subject.with_fallbacks("a")) == ["a", "b", "c"]
    assert list(subject.with_fallbacks("b")) == ["b"]


def test_names_are_the_pools_and_the_aliases_of_pools_that_exist() -> None:
    """An alias of nothing is not offered."""
    subject = router(aliases={"ada": "embedder", "lost": "gone"})

    assert subject.names(POOLS) == {"embedder": "embedder", "reranker": "reranker", "ada": "embedder"}


# Callers who are permitted some models


@pytest.mark.parametrize("patterns", [("embedder",), ("emb*",), ("ada",), ("x", "*")])
@pytest.mark.parametrize("model", ["embedder", "ada"])
def test_a_pattern_fits_a_model_by_any_of_its_names(patterns: tuple[str, ...], model: str) -> None:
    """An alias is the model, whichever of the two is named in the rule and in the call."""
    assert router(aliases={"ada": "embedder"}).resolve(model, "embed", POOLS, patterns) == "embedder"


@pytest.mark.parametrize("pools", [POOLS, {}], ids=["some", "none"])
@pytest.mark.parametrize("model", ["reranker", "rank", "nothing", "Embedder", "embedder2", ""])
def test_what_is_not_permitted_is_forbidden(model: str, pools: dict[str, set[str]]) -> None:
    """Whether it is there or not."""
    with pytest.raises(Forbidden, match=f"this key may not use the model '{model}'"):
        router(aliases={"rank": "reranker"}).resolve(model, "rerank", pools, ("embedder",))


def test_who_names_no_model_gets_one_that_is_permitted() -> None:
    """A default that is not is passed over."""
    pools = {"embedder": {"embed"}, "other": {"embed"}, "reranker": {"rerank"}}
    found = router(default_models={Task.EMBED: "embedder"})

    assert found.resolve(None, "embed", pools, ("other",)) == "other"
    assert found.resolve(UNNAMED, "embed", pools, ("*e*r",)) == "embedder"
    with pytest.raises(BadRequest, match=r"no model here can rerank; known are other$"):
        found.resolve(None, "rerank", pools, ("other",))
    with pytest.raises(Forbidden, match="may use no model that is here"):
        found.resolve(None, "embed", pools, ("gone",))


def test_errors_name_permitted_models_alone() -> None:
    """What else is here is not for that caller to know."""
    pools = {"embedder": {"embed"}, "embedder-2": {"embed"}, "reranker": {"rerank"}}

    with pytest.raises(UnknownModel, match=r"'embedder-3' is not .* known are embedder, embedder-2$"):
        router().resolve("embedder-3", "embed", pools, ("embed*",))
    with pytest.raises(UnknownModel, match=r"'gone' is not known here$"):
        router().resolve("gone", "embed", pools, ("gone",))
    with pytest.raises(BadRequest, match="cannot rerank; no model here can"):
        router().resolve("embedder", "rerank", pools, ("embed*",))


def test_fallbacks_that_are_not_permitted_are_passed_over() -> None:
    """The next one may stand in."""
    found = router(aliases={"second": "b"}, fallbacks={"a": ("b", "c", "d")})

    assert found.with_fallbacks("a") == ("a", "b", "c", "d")
    assert found.with_fallbacks("a", ("a", "c")) == ("a", "c")
    assert found.with_fallbacks("a", ("a", "second")) == ("a", "b")

"""What is learned of a server before it gets work."""

import asyncio
from contextlib import suppress

import pytest

from gateway.core.retry import Failure
from gateway.core.sameness import distance
from gateway.pool import Encoding, SendError, ServerFacts
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.faults import Fault, posted, to
from tests.fakes.infinity import FakeInfinity, FakeModel, Received, vector_of
from tests.upstream.requests import TIMEOUT_S, decoded, deployment, texts


@pytest.mark.parametrize(
    ("model", "capabilities", "encoding"),
    [
        ("bert", {"embed"}, Encoding.BASE64),
        ("cross", {"rerank"}, Encoding.BASE64),
        ("classifier", {"classify"}, Encoding.BASE64),
        ("clip", {"embed", "image_embed"}, Encoding.BASE64),
        ("clap", {"embed", "audio_embed"}, Encoding.BASE64),
        ("bert-tokens", {"embed"}, Encoding.BASE64),
        ("colbert", {"embed"}, Encoding.FLOAT),
        ("bert-bits", {"embed"}, Encoding.FLOAT),
    ],
)
async def test_each_model_of_a_server_of_many(
    upstream: InfinityUpstream,
    fake_infinity: FakeInfinity,
    model: str,
    capabilities: set[str],
    encoding: Encoding,
) -> None:
    """What it can do, how many items make a batch, and whether its vectors survive base64."""
    facts = await upstream.inspect(deployment(fake_infinity, model), TIMEOUT_S)

    assert facts.capabilities == capabilities
    assert facts.batch_size == 32
    assert facts.encoding is encoding


@pytest.mark.parametrize(
    ("model", "forms"),
    [
        ("bert", ["8 numbers"] * 2),
        ("colbert", ["3 x 8 numbers", "302 x 8 numbers"]),
        ("bert-bits", ["1 numbers"] * 2),
        ("cross", ["a score"] * 2),
        ("classifier", ["3 labels from negative to positive"] * 2),
    ],
)
async def test_its_answers_to_fixed_texts_are_told(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, model: str, forms: list[str]
) -> None:
    """The same whenever it is asked; a canary asks about the first."""
    told = [(await upstream.inspect(deployment(fake_infinity, model), TIMEOUT_S)).samples for _ in range(2)]

    assert told[0] == told[1]
    assert [sample.form for sample in told[0]] == forms
    assert told[0][0].numbers != told[0][1].numbers
    assert {sample.are_bits for sample in told[0]} == {model == "bert-bits"}


async def test_another_model_answers_otherwise(upstream: InfinityUpstream) -> None:
    """Under the same name."""
    async with FakeInfinity([FakeModel("bert")]) as one, FakeInfinity([FakeModel("bert", seed="2")]) as other:
        samples = [(await upstream.inspect(deployment(fake), TIMEOUT_S)).samples for fake in (one, other)]

    assert distance(*samples) > 0.5


async def test_the_batch_size_is_the_servers(upstream: InfinityUpstream) -> None:
    """A batch larger than that would be cut by the server, one smaller would waste it."""
    async with FakeInfinity([FakeModel("bert", batch_size=7)]) as fake:
        assert (await upstream.inspect(deployment(fake), TIMEOUT_S)).batch_size == 7


@pytest.mark.parametrize("model", ["bert", "cross", "classifier"])
async def test_a_model_is_seen_to_answer(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, model: str
) -> None:
    """Infinity lists a model whose worker has died, so a real call must be answered before it gets work."""
    fake_infinity.faults.append(Fault(status=500))

    with pytest.raises(SendError) as caught:
        await upstream.inspect(deployment(fake_infinity, model), TIMEOUT_S)

    assert caught.value.failure is Failure.SERVER_ERROR


async def test_a_dead_worker_is_not_taken_in(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """Its requests hang while all else goes on answering."""
    fake_infinity.worker.dead = True

    with pytest.raises(SendError) as caught:
        await upstream.inspect(deployment(fake_infinity), 0.1)

    assert caught.value.failure is Failure.TIMEOUT


async def test_the_name_is_ignored_where_the_server_ignores_it(upstream: InfinityUpstream) -> None:
    """A server of one model answers to any name, so the configured one need not be the server's."""
    async with FakeInfinity([FakeModel("its-own-name")]) as fake:
        facts = await upstream.inspect(deployment(fake, "another"), TIMEOUT_S)

    assert facts.capabilities == {"embed"}


async def test_a_name_that_a_server_of_many_lacks(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """The operator is told what is served there."""
    with pytest.raises(SendError, match=r"serves bert, cross, .*, not nobody"):
        await upstream.inspect(deployment(fake_infinity, "nobody"), TIMEOUT_S)


async def test_a_base64_that_fails_for_a_moment_does_not_mean_floats_for_ever(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """Only the 500 of a binary dtype does: a 503 must not cost four times the bytes from then on."""

    def base64(request: Received) -> bool:
        return isinstance(request.body, dict) and request.body.get("encoding_format") == "base64"

    fake_infinity.faults.append(Fault(status=503, times=1, when=base64))

    facts: ServerFacts | None = None
    with suppress(SendError):
        facts = await upstream.inspect(deployment(fake_infinity), TIMEOUT_S)

    assert facts is None or facts.encoding is Encoding.BASE64


# Where the routes are


async def test_models_are_listed_by_name(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """As the server lists them, in its order."""
    names = await upstream.models(deployment(fake_infinity, None), TIMEOUT_S)

    assert list(names) == [model.name for model in fake_infinity.models]


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b'{"data":{}}', b'{"data":[{"name":"x"}]}', b"<html></html>"], ids=repr
)
async def test_a_list_of_models_that_is_none(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, raw: bytes
) -> None:
    """What answers at /models is not Infinity."""
    fake_infinity.faults.append(Fault(raw=raw, when=to("/models")))

    with pytest.raises(SendError) as caught:
        await upstream.models(deployment(fake_infinity), TIMEOUT_S)

    assert caught.value.failure is Failure.BAD_ANSWER


async def test_a_prefix_of_v1_is_found(upstream: InfinityUpstream) -> None:
    """A server started with `--url-prefix /v1` is used as one without, and asked only once where it is."""
    async with FakeInfinity([FakeModel("bert")], url_prefix="/v1") as fake:
        server = deployment(fake.url.removesuffix("/v1"))
        names = await upstream.models(server, TIMEOUT_S)
        facts = await upstream.inspect(server, TIMEOUT_S)
        answer = await upstream.send(server, texts("one"), TIMEOUT_S)

    assert list(names) == ["bert"]
    assert facts.encoding is Encoding.BASE64
    assert decoded(answer.values) == [vector_of("one").tolist()]


async def test_a_prefix_in_the_address_is_kept(upstream: InfinityUpstream) -> None:
    """Whatever it is."""
    async with FakeInfinity([FakeModel("bert")], url_prefix="/deep/v1") as fake:
        await upstream.inspect(deployment(fake), TIMEOUT_S)

    assert {request.path for request in fake.requests} == {"/models", "/embeddings"}


async def test_models_of_one_server_look_for_its_prefix_at_the_same_time(
    upstream: InfinityUpstream,
) -> None:
    """Each pool inspects the server for itself, all of them at the start: none may mislead another."""
    models = [FakeModel(f"bert-{i}") for i in range(4)]
    async with FakeInfinity(models, url_prefix="/v1") as fake:
        base = fake.url.removesuffix("/v1")
        found = await asyncio.gather(
            *(upstream.inspect(deployment(base, model.name), TIMEOUT_S) for model in models)
        )
        answers = [
            await upstream.send(deployment(base, model.name), texts("one"), TIMEOUT_S) for model in models
        ]

    assert [facts.encoding for facts in found] == [Encoding.BASE64] * 4
    assert [decoded(answer.values) for answer in answers] == [[vector_of("one").tolist()]] * 4


async def test_a_server_that_comes_back_without_the_prefix_is_found_again(
    upstream: InfinityUpstream,
) -> None:
    """Where its routes are is no fact for ever: the server may be started with other options."""
    plain, prefixed = FakeInfinity([FakeModel("bert")]), FakeInfinity([FakeModel("bert")], url_prefix="/v1")
    async with prefixed:
        base = prefixed.url.removesuffix("/v1")
        await upstream.inspect(deployment(base), TIMEOUT_S)
    plain.port = prefixed.port
    async with plain:
        with suppress(SendError):
            await upstream.inspect(deployment(base), TIMEOUT_S)
        await upstream.inspect(deployment(base), TIMEOUT_S)
        answer = await upstream.send(deployment(base), texts("one"), TIMEOUT_S)

    assert decoded(answer.values) == [vector_of("one").tolist()]


async def test_an_address_without_infinity_says_so(upstream: InfinityUpstream) -> None:
    """A 404 leads to api_base, since that is what is wrong then."""
    async with FakeInfinity(url_prefix="/elsewhere") as fake:
        base = fake.url.removesuffix("/elsewhere")
        with pytest.raises(SendError, match="api_base"):
            await upstream.inspect(deployment(base), TIMEOUT_S)

    assert not any(posted(request) for request in fake.requests)

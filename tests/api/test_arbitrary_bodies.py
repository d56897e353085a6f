"""Whatever a caller sends, the answer is 200 or an error of the caller, and only what is valid goes on."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.caller import Caller, Reply
from tests.api.configs import SHARED
from tests.api.neighbours import refused
from tests.fakes.infinity import FakeInfinity

pytestmark = SHARED

PATHS = st.sampled_from(
    ["/embeddings", "/v1/embeddings", "/rerank", "/v1/rerank", "/classify", "/v1/classify"]
)
NAMES = st.sampled_from([
    "model", "input", "encoding_format", "dimensions", "output_dimension", "user", "modality", "input_type",
    "task", "output_dtype", "query", "documents", "top_n", "top_k", "return_documents", "rank_fields",
    "raw_scores", "max_tokens_per_doc", "texts", "truncation", "api_base", "anything", "",
])  # fmt: skip

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.sampled_from(["bert", "cross", "classifier", "clip", "float", "base64", "text", "image", "query"])
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 10**30, -(10**30)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(TEXTS, st.just("text")), inner, max_size=3),
    ),
    max_leaves=8,
)
STRINGS = st.lists(TEXTS, min_size=1, max_size=4)

# Mostly right, so that what is wrong gets beyond the first check.
CALLS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"model": st.just("bert"), "input": STRINGS}),
    st.fixed_dictionaries({"model": st.just("cross"), "query": TEXTS, "documents": STRINGS}),
    st.fixed_dictionaries({"model": st.just("classifier"), "input": STRINGS}),
    st.just({}),
)
BODIES = st.builds(lambda call, extra: {**call, **extra}, CALLS, st.dictionaries(NAMES, VALUES, max_size=4))

MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(reply: Reply, fake: FakeInfinity) -> None:
    if reply.status == 200:
        assert fake.batches
    else:
        reply.error(400 if reply.status == 400 else 404)
        message = reply.body["error"]["message"]
        assert "the server refused" not in message
        # How many there are is known from the answer alone.
        assert fake.asked == [] or message.startswith("dimensions must be from 1 to ")


@MANY
@given(PATHS, VALUES)
async def test_any_json(caller: Caller, fake: FakeInfinity, path: str, body: Any) -> None:
    """Objects of unknown fields, lists, numbers: none of it is an internal error."""
    fake.requests.clear()

    reply = await caller.post(path, json.dumps(body).encode())

    check(reply, fake)


@MANY
@given(PATHS, BODIES)
async def test_calls_with_any_value_in_any_field(
    caller: Caller, fake: FakeInfinity, path: str, body: dict[str, Any]
) -> None:
    """Nearly valid calls: what the gateway lets pass, the server takes."""
    fake.requests.clear()

    reply = await caller.post(path, body)

    check(reply, fake)


def is_object(raw: bytes) -> bool:
    """Whether it is a JSON object, which might be a call."""
    with suppress(ValueError):
        return isinstance(json.loads(raw), dict)
    return False


@settings(MANY, max_examples=75)
@given(PATHS, st.binary(max_size=60).filter(lambda raw: not is_object(raw)))
async def test_any_bytes(caller: Caller, fake: FakeInfinity, path: str, body: bytes) -> None:
    """A neighbour in the same moment never notices."""
    fake.requests.clear()

    reply = await refused(caller, fake, path, body)

    assert reply.error(400)


@settings(MANY, max_examples=75)
@given(st.binary(max_size=4), st.integers(0, 60))
async def test_a_good_call_with_some_bytes_changed(
    caller: Caller, fake: FakeInfinity, put: bytes, at: int
) -> None:
    """As memory or a network that fails would change it."""
    good = b'{"model": "bert", "input": ["one", "two"], "user": "me"}'
    fake.requests.clear()

    reply = await caller.post("/v1/embeddings", good[:at] + put + good[at + len(put) :])

    check(reply, fake)

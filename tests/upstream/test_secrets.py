"""The servers' key goes to them and nowhere else; what they say goes to callers without addresses."""

import pytest

from gateway.core.retry import Failure
from gateway.upstream.infinity import InfinityUpstream
from tests.fakes.faults import Fault
from tests.fakes.infinity import FakeInfinity, FakeModel, vector_of
from tests.upstream.requests import TIMEOUT_S, decoded, deployment, failure_of, texts

KEY = "sk-very-secret-7997"


async def test_the_key_is_sent_with_every_call() -> None:
    """The server lets in nobody without it, for its models either."""
    async with FakeInfinity([FakeModel("bert")], api_key=KEY) as fake, InfinityUpstream() as upstream:
        server = deployment(fake, key=KEY)
        facts = await upstream.inspect(server, TIMEOUT_S)
        answer = await upstream.send(server, texts("one"), TIMEOUT_S)

    assert facts.capabilities == {"embed"}
    assert decoded(answer.values) == [vector_of("one").tolist()]
    assert {request.headers.get("Authorization") for request in fake.requests} == {f"Bearer {KEY}"}


async def test_a_server_without_a_key_is_not_shown_the_key_of_another(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity
) -> None:
    """A key belongs to its deployment."""
    async with FakeInfinity(api_key=KEY) as locked:
        await upstream.send(deployment(locked, key=KEY), texts("one"), TIMEOUT_S)
        await upstream.send(deployment(fake_infinity), texts("one"), TIMEOUT_S)

    assert "Authorization" not in fake_infinity.requests[0].headers


@pytest.mark.parametrize("key", [None, "wrong", KEY + "x"])
async def test_a_server_that_does_not_take_the_key(upstream: InfinityUpstream, key: str | None) -> None:
    """It says that the key is the matter, and not what the key is."""
    async with FakeInfinity(api_key=KEY) as locked:
        error = await failure_of(upstream, deployment(locked, key=key))

    assert error.failure is Failure.UNAUTHORIZED
    assert "key" in str(error)
    assert key is None or key not in str(error)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=401),
        Fault(status=500),
        Fault(status=302, headers={"Location": "http://elsewhere.invalid/"}),
        Fault(drop="before"),
        Fault(drop="middle", reset=True),
        Fault(hang=True),
        Fault(wire=b"what?"),
        Fault(raw=b"{"),
    ],
    ids=["401", "500", "302", "closed", "reset", "hang", "no HTTP", "no JSON"],
)
async def test_no_error_shows_the_key(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, fault: Fault
) -> None:
    """Neither in its words nor in those of what caused it, which a log may print as well."""
    fake_infinity.faults.append(fault)

    error: BaseException | None = await failure_of(
        upstream, deployment(fake_infinity, key=KEY), timeout_s=0.2
    )

    while error is not None:
        assert KEY not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "address",
    [
        "http://10.1.2.3:7997/models",
        "https://user:pass@infinity.internal/x?key=1",
        "ws://infinity",
        "file:///etc/passwd",
        "10.1.2.3:7997",
        "[fd00::1]:7997",
        "infinity-0.infinity.svc.cluster.local:7997",
    ],
)
@pytest.mark.parametrize("status", [400, 422])
async def test_what_a_server_says_about_an_input_names_no_address(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, address: str, status: int
) -> None:
    """A caller is told what is wrong with the input, and learns nothing about the network inside."""
    body = b'{"error":{"message":"could not open (%b) as an image"}}' % address.encode()
    fake_infinity.faults.append(Fault(raw=body, status=status))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert error.failure is Failure.REJECTED
    assert str(error).startswith("could not open")
    assert address not in str(error)
    assert "10.1.2.3" not in str(error)
    assert "infinity.internal" not in str(error)


async def test_a_reason_of_any_length_is_cut(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """Infinity echoes the input that it refuses."""
    fake_infinity.faults.append(Fault(raw=b'{"detail":[{"msg":"%b"}]}' % (b"x" * 100_000), status=422))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert error.failure is Failure.REJECTED
    assert 0 < len(str(error)) <= 1000


@pytest.mark.parametrize("raw", [b"", b"Internal Server Error", b"[]", b'{"detail":[]}', b'{"error":"no"}'])
@pytest.mark.parametrize("status", [400, 500])
async def test_a_refusal_without_a_reason_is_one_all_the_same(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, raw: bytes, status: int
) -> None:
    """Proxies in between answer in words of their own."""
    fake_infinity.faults.append(Fault(raw=raw, status=status, content_type="text/plain"))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert error.failure is (Failure.REJECTED if status == 400 else Failure.SERVER_ERROR)
    assert "no reason given" in str(error)


INSIDE = [
    "/usr/lib/python3.10/site-packages/PIL/Image.py", "/app/models/bge/config.json", "C:\\\\models\\\\bge",
    "infinity-0.infinity.svc.cluster.local", "node7.internal", "fd00:10:96::1a", "Bearer abcdef0123456789",
    "api_key=abcdef0123456789", "authorization: abcdef0123456789", "sk-abcdef0123456789",
    "hf_abcdef0123456789",
]  # fmt: skip


@pytest.mark.proves(
    "a server's error names addresses, paths or keys",
    caller="what was wrong with the input, without them",
    kind="attack",
)
@pytest.mark.parametrize("mentioned", INSIDE)
async def test_what_a_server_says_shows_nothing_of_the_inside(
    upstream: InfinityUpstream, fake_infinity: FakeInfinity, mentioned: str
) -> None:
    """Paths, hosts and keys; what it says of the input stays."""
    body = b'{"error":{"message":"cannot read %b as an image of 3 x 4"}}' % mentioned.encode()
    fake_infinity.faults.append(Fault(raw=body, status=400))

    error = await failure_of(upstream, deployment(fake_infinity))

    assert error.failure is Failure.REJECTED
    assert str(error).startswith("cannot read")
    assert str(error).endswith("as an image of 3 x 4")
    assert not set(mentioned.replace("\\\\", "\\").split()) & set(str(error).split())
    assert "abcdef" not in str(error)


async def test_a_stack_trace_is_no_reason(upstream: InfinityUpstream, fake_infinity: FakeInfinity) -> None:
    """And what is one stays on one line, or it would make lines of its own in a log."""
    trace = b"Traceback (most recent call last):\\n  File '/app/x.py', line 3, in y\\nValueError: z"
    for said, told in (
        (trace, "no reason given"),
        (b"two\\nlines\\u001b[31m\\u0000", "two lines [31m "),
        (b"ModelNotDeployedError: model=`bert` does not support `rerank`.", None),
    ):
        fake_infinity.faults[:] = [Fault(raw=b'{"error":{"message":"%b"}}' % said, status=400)]

        error = await failure_of(upstream, deployment(fake_infinity))

        assert str(error) == (told if told is not None else said.decode())

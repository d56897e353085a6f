"""Connections to one address of a name: the server there is asked by the name, in its head and in TLS."""

from pathlib import Path

import pytest
import trustme

from gateway.core.retry import Failure
from gateway.core.settings import DeploymentSettings, TlsSettings
from gateway.upstream.infinity import InfinityUpstream
from tests.api.waiting import until
from tests.fakes.infinity import FakeInfinity
from tests.upstream.listening import tls
from tests.upstream.peer import peer
from tests.upstream.requests import TIMEOUT_S, failure_of, sent, texts


def at(port: int, address: str = "127.0.0.1", scheme: str = "http") -> DeploymentSettings:
    return DeploymentSettings("a", f"{scheme}://name.test:{port}", "bert", address=address)


async def test_all_requests_go_there_and_name_the_name() -> None:
    async with FakeInfinity() as fake, InfinityUpstream() as upstream:
        facts = await upstream.inspect(at(fake.port), TIMEOUT_S)
        await upstream.models(at(fake.port), TIMEOUT_S)
        await sent(upstream, at(fake.port), texts("one"))

    assert "embed" in facts.capabilities
    assert {request.path for request in fake.requests} == {"/models", "/embeddings"}
    assert {request.headers["Host"] for request in fake.requests} == {f"name.test:{fake.port}"}


async def test_addresses_of_one_name_share_no_connection() -> None:
    async with (
        FakeInfinity() as one,
        FakeInfinity(host="127.0.0.2", port=one.port) as two,
        InfinityUpstream() as upstream,
    ):
        for _ in range(2):
            await sent(upstream, at(one.port), texts("one"))
            await sent(upstream, at(one.port, "127.0.0.2"), texts("two"))

    assert one.batches == [["one"], ["one"]]
    assert two.batches == [["two"], ["two"]]


async def test_the_certificate_must_be_the_names(tmp_path: Path) -> None:
    """SNI as well."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = tls(authority, "name.test")
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)

    async with InfinityUpstream(TlsSettings(ca_file=tmp_path / "ca.pem")) as upstream:
        async with peer(tls=context) as served:
            port = int(served.url.rpartition(":")[2])
            answer = await upstream.send(at(port, scheme="https"), texts("one"), TIMEOUT_S)
            assert answer.tokens == 1
            assert (await failure_of(upstream, at(port))).failure is not None
        async with peer(tls=tls(authority, "127.0.0.1")) as served:
            port = int(served.url.rpartition(":")[2])
            error = await failure_of(upstream, at(port, scheme="https"))

    assert named[0] == "name.test"
    assert error.failure is Failure.REFUSED
    assert "certificate" in str(error)


@pytest.mark.parametrize("shared", [False, True])
async def test_connections_to_a_server_that_is_forgotten_are_closed(shared: bool) -> None:
    """Unless another path of it is still asked."""
    other = DeploymentSettings("b", "http://name.test:{}/other", "bert", address="127.0.0.1")
    async with peer() as served, InfinityUpstream() as upstream:
        port = int(served.url.rpartition(":")[2])
        await sent(upstream, at(port), texts("one"))
        if shared:
            place = DeploymentSettings("b", other.api_base.format(port), "bert", address="127.0.0.1")
            await sent(upstream, place, texts("two"))
        upstream.forget(at(port).place)
        if shared:
            assert served.open == 1
            await sent(upstream, place, texts("three"))
            assert served.connections == 1
        else:
            await until(lambda: served.open == 0, within_s=2)

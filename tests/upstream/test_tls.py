"""https to a server whose authority is trusted."""

from pathlib import Path

import pytest
import trustme

from gateway.core.retry import Failure
from gateway.upstream.infinity import InfinityUpstream
from tests.upstream.listening import tls
from tests.upstream.peer import BODY, peer
from tests.upstream.requests import TIMEOUT_S, deployment, failure_of, texts


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_calls_over_tls(upstream: InfinityUpstream, authority: trustme.CA, host: str) -> None:
    """They share a connection, are of any size, and name the server that they mean."""
    context = tls(authority, host)
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)

    async with peer(tls=context) as served:
        url = served.url.replace("127.0.0.1", host)
        for text in ("one", "a" * 4_000_000, "two"):
            answer = await upstream.send(deployment(url), texts(text), TIMEOUT_S)
            assert answer.tokens == 1

    assert served.used == [0, 0, 0]
    assert named == ["localhost" if host == "localhost" else None]


async def test_an_answer_over_tls_that_ends_with_its_connection(
    upstream: InfinityUpstream, authority: trustme.CA
) -> None:
    """As without TLS."""
    async with peer(
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY, hangs_up=True, tls=tls(authority, "127.0.0.1")
    ) as served:
        for _ in range(2):
            answer = await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)
            assert answer.tokens == 1

    assert served.used == [0, 1]


async def test_a_certificate_of_another_name(upstream: InfinityUpstream, authority: trustme.CA) -> None:
    """Trusted, but not the server that was meant: nothing is sent."""
    async with peer(tls=tls(authority, "infinity.invalid")) as served:
        error = await failure_of(upstream, deployment(served.url))

    assert error.failure is Failure.REFUSED
    assert "certificate" in str(error)
    assert served.requests == []

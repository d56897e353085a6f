"""https to a server whose authority is trusted."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.core.retry import Failure
from gateway.core.settings import TlsSettings
from gateway.upstream.infinity import InfinityUpstream
from tests.upstream.listening import listening, tls
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


class Issued:
    """Files of an authority of our own, and of a certificate that it issued to us."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.settings = TlsSettings(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        self.write()

    def write(self) -> None:
        ca_file, cert_file, key_file = self.settings.ca_file, self.settings.cert_file, self.settings.key_file
        assert ca_file
        assert cert_file
        assert key_file
        ours = self.authority.issue_cert("gateway")
        self.authority.cert_pem.write_to_path(str(ca_file))
        ours.private_key_pem.write_to_path(str(key_file))
        ours.cert_chain_pems[0].write_to_path(str(cert_file))

    def server(self) -> ssl.SSLContext:
        """Of one who wants to see our certificate."""
        context = tls(self.authority, "127.0.0.1")
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Issued(tmp_path)


async def test_own_authority_and_own_certificate(issued: Issued) -> None:
    """For batches, and for the list of models."""
    models = b'{"data":[{"id":"bert"}]}'
    listed = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(models), models)
    async with InfinityUpstream(issued.settings) as upstream, peer(tls=issued.server()) as served:
        await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)
        assert served.requests

        async def lists(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(listed)
            await writer.drain()

        async with listening(lists, ssl=issued.server()) as url:
            asked = deployment(url.replace("http:", "https:"))
            assert await upstream.models(asked, TIMEOUT_S) == ["bert"]


async def test_a_server_that_wants_a_certificate_gets_none_by_default(
    upstream: InfinityUpstream, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so: the batch is not answered."""
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.settings.ca_file))
    async with peer(tls=issued.server()) as served:
        error = await failure_of(upstream, deployment(served.url))

    assert error.failure in (Failure.REFUSED, Failure.DISCONNECTED)
    assert served.requests == []


@pytest.mark.proves("a server's certificate is not to be trusted", caller="nothing is sent to that server")
async def test_only_the_own_authority_counts_where_there_is_one(
    issued: Issued, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of the system do not."""
    systems = trustme.CA()
    systems.cert_pem.write_to_path(str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    async with InfinityUpstream(issued.settings) as upstream, peer(tls=tls(systems, "127.0.0.1")) as served:
        error = await failure_of(upstream, deployment(served.url))

    assert error.failure is Failure.REFUSED
    assert "certificate" in str(error)
    assert served.requests == []


async def test_renewed_files_are_read_again(issued: Issued) -> None:
    """Without a restart; and while they are half written those of before hold."""
    async with InfinityUpstream(issued.settings) as upstream:
        async with peer(tls=issued.server(), hangs_up=True) as served:
            await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)
            assert issued.settings.cert_file
            issued.settings.cert_file.write_bytes(b"-----BEGIN CERT")
            await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)
        issued.authority = trustme.CA()
        issued.write()
        async with peer(tls=issued.server()) as served:
            await upstream.send(deployment(served.url), texts("one"), TIMEOUT_S)

    assert len(served.requests) == 1

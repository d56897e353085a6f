"""A small DNS server on loopback, and a look-up that asks it as `getaddrinfo` would ask the system's."""

import asyncio
import socket
from types import TracebackType
from typing import Self

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from gateway.core.settings import Family

_TTL_S = 5
_TYPES = {"ipv4": ("A",), "ipv6": ("AAAA",), "any": ("A", "AAAA")}


class DnsServer(asyncio.DatagramProtocol):
    """An async context manager; `zone` has the addresses of each name, and may change at any time."""

    def __init__(self, **zone: list[str]) -> None:
        self.zone = {name.replace("_", "-"): addresses for name, addresses in zone.items()}
        self.fails = False
        """It answers SERVFAIL."""
        self.hangs = False
        """It does not answer."""
        self.asked = 0
        """Look-ups that were begun here."""
        self._transport: asyncio.DatagramTransport

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = ["127.0.0.1"]
        self._resolver.port = self._transport.get_extra_info("sockname")[1]
        self._resolver.lifetime = 0.5
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    async def look_up(self, host: str, family: Family) -> list[str]:
        self.asked += 1
        found: list[str] = []
        for kind in _TYPES[family]:
            try:
                answer = await self._resolver.resolve(host, kind, raise_on_no_answer=False)
            except dns.exception.DNSException as error:
                raise socket.gaierror(socket.EAI_NONAME, "unknown") from error
            found += [record.to_text() for record in answer]
        return found

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.hangs:
            return
        query = dns.message.from_wire(data)
        (question,) = query.question
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        addresses = self.zone.get(question.name.to_text(omit_final_dot=True))
        if self.fails:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif addresses is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            is_v6 = question.rdtype == dns.rdatatype.AAAA
            fitting = [each for each in addresses if (":" in each) is is_v6]
            if fitting:
                answer.answer.append(
                    dns.rrset.from_text_list(question.name, _TTL_S, "IN", question.rdtype, fitting)
                )
        self._transport.sendto(answer.to_wire(), addr)

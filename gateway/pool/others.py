"""Asks the servers of a pool now and then how long requests were with them, which shows whether others use
them too (core/sharing.py)."""

import asyncio
from collections.abc import Callable, Mapping

from gateway.core.balancer import Balancer
from gateway.pool.member import Member
from gateway.pool.port import SendError, Upstream

ASK_EVERY_S = 2.0
_TIMEOUT_S = 1.0


async def watch_others(
    members: Mapping[str, Member], balancer: Balancer, upstream: Upstream, in_use: Callable[[], bool]
) -> None:
    """Ask for ever, as long as the pool is `in_use`."""
    while True:
        await asyncio.sleep(ASK_EVERY_S)
        asked = list(members.values()) if in_use() else ()
        await asyncio.gather(*(_ask(member, upstream) for member in asked))
        for deployment in balancer:
            deployment.sharing.look(asyncio.get_running_loop().time())
        balancer.settle()


async def _ask(member: Member, upstream: Upstream) -> None:
    if not member.state.health.is_up or member.facts is None or not member.tells_spent:
        return
    try:
        spent_s = await upstream.spent_s(member.settings, member.facts.capabilities, _TIMEOUT_S)
    except SendError:
        return  # Whether it is fit for work, others find out.
    if spent_s is None:
        member.tells_spent = False
    else:
        member.state.on_sum(spent_s, asyncio.get_running_loop().time())

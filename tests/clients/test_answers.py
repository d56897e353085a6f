"""Every client, with nothing changed but its base URL and key, gets what Infinity would give it."""

import pytest

from tests.clients.expected import ERRORS, Expected
from tests.clients.running import SCRIPTS, Clients

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.parametrize("script", SCRIPTS)
async def test_the_client_gets_infinitys_answers(script: str, clients: Clients, expected: Expected) -> None:
    calls = await clients.calls(script)
    for call in calls:
        expected.check(call)
    failed = {(call["client"], call["call"]) for call in calls if call["kind"] == "error"}
    assert failed == {named for named in ERRORS if named[0] in {call["client"] for call in calls}}

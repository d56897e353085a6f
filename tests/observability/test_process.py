"""The log of a gateway as a user starts it, and its last traces."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.api.caller import Caller
from tests.fakes.infinity import FakeInfinity
from tests.gateway_process import ROOT, GatewayProcess
from tests.observability.receiver import Receiver

TEXT, KEY = "a text that is nobody's business", "sk-secret"


def events(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.output]


async def test_a_process_tells_its_life_in_json_and_exports_its_last_traces(tmp_path: Path) -> None:
    """Whether spans are on their way for minutes otherwise: its end is what sends them."""
    config = tmp_path / "config.yaml"
    async with FakeInfinity() as fake, Receiver() as receiver:
        config.write_text(
            "model_list:\n"
            f"  - {{model_name: bert, litellm_params: {{model: infinity/bert, api_base: '{fake.url}'}}}}\n"
            f"general_settings: {{master_key: {KEY}}}\n"
            "gateway: {logging: {access_log: 1}, drain: {grace_s: 0}}\n"
        )
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        async with GatewayProcess(config=config, environ=environ) as gateway:
            await gateway.wait_ready()
            async with Caller(gateway.url, authorization=f"Bearer {KEY}") as caller:
                assert (await caller.embed(TEXT)).status == 200
            assert not receiver.spans
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait() == 0

    assert [line["event"] for line in events(gateway)] == [
        *("starting", "listening", "server_up", "ready", "call", "draining", "ended"),
    ]
    (call,) = [line for line in events(gateway) if line["event"] == "call"]
    assert {span.trace_id for span in receiver.spans} == {call["trace_id"]}
    assert sorted(span.kind for span in receiver.spans) == ["client", "server"]
    assert not any(word in line for line in gateway.output for word in (TEXT, KEY))


def test_people_at_a_terminal_get_words() -> None:
    """uvicorn's come in the same form, and only its warnings."""
    terminal, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", _SAY], stderr=theirs, cwd=ROOT, check=False, timeout=60)
    said = os.read(terminal, 1000).decode()
    os.close(terminal)
    os.close(theirs)

    assert done.returncode == 0
    ours, uvicorns = said.splitlines()
    assert ours.endswith("Z INFO ready")
    assert uvicorns.endswith("Z WARNING wrong")


_SAY = """
import logging
from gateway.core.settings import LoggingSettings
from gateway.observability.lines import Lines, set_up
from gateway.observability.logs import say

with Lines() as lines:
    set_up(lines, LoggingSettings())
    say(logging.INFO, "ready", None, "ready")
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    logging.getLogger("uvicorn.error").warning("wrong")
"""

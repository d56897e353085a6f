"""`serve` and `check` where they cannot go on: in words that name the remedy, and with the exit code."""

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.waiting import until
from tests.end_to_end.commands import infinity_gateway
from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.gateway_process import GatewayProcess

NOWHERE = {"INFINITY_API_BASE": "http://127.0.0.1:9"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.proves(
    "a gateway without a key is started on an address that others can reach",
    caller="it does not start: code 2, and what to set",
    kind="attack",
)
@pytest.mark.parametrize(("host", "source"), [("0.0.0.0", "environment"), ("::", "file")])
async def test_serving_others_needs_a_key_or_leave(config_file: Path, host: str, source: str) -> None:
    """Whoever opens the gateway to other machines says who may call; both settings are named."""
    written(config_file, {"model_list": [entry("bert", ["http://127.0.0.1:9"])]})
    named = ["--config", str(config_file)] if source == "file" else []

    refused = await infinity_gateway("serve", *named, "--host", host, "--port", "0", environ=NOWHERE)

    assert refused.code == 2
    assert "master_key" in refused.err
    assert "allow_anonymous: true" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("where", ["master", "named", "file"])
async def test_any_key_is_one(config_file: Path, where: str) -> None:
    """A named key as much as the master key, and a file for keys even while it is empty."""
    (config_file.parent / "keys.yaml").write_text("[]")
    keyed: dict[str, Any] = {
        "master": {"general_settings": {"master_key": "sk-1"}},
        "named": {"gateway": {"keys": [{"name": "rag", "key": "sk-1"}]}},
        "file": {"gateway": {"keys_file": "keys.yaml"}},
    }
    content = {"model_list": [entry("bert", ["http://127.0.0.1:9"])], **keyed[where]}

    async with GatewayProcess("--host", "0.0.0.0", config=written(config_file, content)) as gateway:
        assert gateway.url.startswith("http://0.0.0.0:")


async def test_leave_to_serve_everybody_is_taken(config_file: Path) -> None:
    """Said in the file, all may call."""
    content = {"model_list": [entry("bert", ["http://127.0.0.1:9"])], "gateway": {"allow_anonymous": True}}

    async with GatewayProcess("--host", "0.0.0.0", config=written(config_file, content)) as gateway:
        assert gateway.url.startswith("http://0.0.0.0:")


async def test_a_taken_port_is_named(taken_port: int) -> None:
    """With what to do about it, and without a traceback."""
    ended = await infinity_gateway("serve", "--port", str(taken_port), environ=NOWHERE)

    assert ended.code == 2
    assert f"port {taken_port} on 127.0.0.1 is taken" in ended.err
    assert "--port" in ended.err
    assert "Traceback" not in ended.err


async def test_an_address_that_is_not_this_machines() -> None:
    """Named as the mistake."""
    host = "192.0.2.1"
    environ = {**NOWHERE, "GATEWAY_MASTER_KEY": "sk-1"}

    ended = await infinity_gateway("serve", "--host", host, "--port", "0", environ=environ)

    assert ended.code == 2
    assert host in ended.err
    assert "Traceback" not in ended.err


async def test_https_to_a_plain_server_is_said_in_the_log() -> None:
    """And not as a number of an SSL library."""
    async with FakeInfinity() as fake:
        environ = {"INFINITY_API_BASE": fake.url.replace("http:", "https:")}
        async with GatewayProcess(environ=environ) as gateway:
            await until(lambda: any("does the server speak https" in line for line in gateway.output), 30)

    assert sum("does the server speak https" in line for line in gateway.output) == 1


async def test_without_infinity_there_is_a_remedy(tmp_path: Path) -> None:
    """Nothing configured and nothing to start: three ways out are named."""
    ended = await infinity_gateway(
        "serve", "--port", "0", environ={"PATH": str(tmp_path)}, directory=tmp_path
    )

    assert ended.code == 2
    assert "There is no infinity_emb to start" in ended.err
    for remedy in ("INFINITY_API_BASE", "make run", "pip install"):
        assert remedy in ended.err
    assert "Traceback" not in ended.err


async def test_a_command_that_is_none() -> None:
    """Usage, and code 2."""
    ended = await infinity_gateway("serve", "--port", "70000")

    assert ended.code == 2
    assert "usage: infinity-gateway" in ended.err
    assert "'70000' is no port" in ended.err


# check


async def test_check_prints_what_would_run(config_file: Path) -> None:
    """Models, servers, settings, warnings, and no secret; no server is called."""
    async with FakeInfinity() as fake:
        params: dict[str, Any] = {"api_key": "sk-server", "raw_scores": True, "rpm": 5}
        content = {
            "model_list": [entry("bert", [fake.url], **params)],
            "general_settings": {"master_key": "os.environ/KEY"},
            "gateway": {"keys": [{"name": "rag", "key": "os.environ/RAG", "items_per_minute": 500}]},
        }
        good = await infinity_gateway(
            "check",
            str(written(config_file, content)),
            environ={"KEY": "sk-callers", "RAG": "sk-rag"},
        )

    assert good.code == 0
    for shown in ("bert", fake.url, "raw_scores", "rag: all models; 500 items a minute"):
        assert shown in good.out
    # Said twice, it would look like two.
    assert len(re.findall("warning.*rpm", good.out + good.err, re.IGNORECASE)) == 1
    assert "sk-" not in good.out + good.err
    assert fake.requests == []


async def test_a_bad_file_is_neither_checked_nor_served(config_file: Path, tmp_path: Path) -> None:
    """Every problem in one go, each with its place, and what was meant where that can be told."""
    bad = {"model_name": "b", "litellm_params": {"model": "infinity/b", "api_bse": "x"}}
    content = {
        "model_list": [entry("a", ["nonsense"]), bad],
        "router_settings": {"num_retires": 1},
        "general_settings": {"master_key": "os.environ/NOT_SET"},
    }
    file = str(written(config_file, content))

    checked, served, missing = await asyncio.gather(
        infinity_gateway("check", file),
        infinity_gateway("serve", "--config", file),
        infinity_gateway("check", str(tmp_path / "nowhere.yaml")),
    )

    for ended in (checked, served, missing):
        assert ended.code == 1
        assert "Traceback" not in ended.err
    for ended in (checked, served):
        for place in ("model_list[0].litellm_params.api_bases[0]", "router_settings.num_retires", "NOT_SET"):
            assert place in ended.err
        assert "model_list[1].litellm_params.api_bse: unknown key; did you mean api_base?" in ended.err
    assert "nowhere.yaml" in missing.err


async def test_a_probe_calls_every_server(config_file: Path) -> None:
    """And says of each whether it would be used, and why not; one that would not is code 1."""
    async with FakeInfinity() as up, FakeInfinity(api_key="another") as locked, FakeInfinity() as down:
        await down.stop()
        good = written(config_file, {"model_list": [entry("bert", [up.url]), entry("cross", [up.url])]})
        fine = await infinity_gateway("check", "--probe", str(good))
        mixed = written(config_file, {"model_list": [entry("bert", [up.url, locked.url, down.url])]})
        failed = await infinity_gateway("check", str(mixed), "--probe")

    assert fine.code == 0
    assert fine.out.count("ok: ") == 2
    assert "embed" in fine.out
    assert "rerank" in fine.out
    assert failed.code == 1
    lines = {
        line.split(" ")[1]: line for line in failed.out.splitlines() if line.startswith(("ok: ", "failed: "))
    }
    assert lines[up.url].startswith("ok: ")
    assert "does not accept our key" in lines[locked.url]
    assert "no connection" in lines[down.url]


@pytest.mark.parametrize("learned", [False, True], ids=["named", "learned"])
async def test_a_probe_finds_the_server_with_other_vectors(config_file: Path, learned: bool) -> None:
    """Of three that call their model by one name, and it is not the first that is right, but most."""
    models, other = [FakeModel("bert")], [FakeModel("bert", seed="other")]
    async with FakeInfinity(other) as odd, FakeInfinity(models) as one, FakeInfinity(models) as two:
        urls = [odd.url, one.url, two.url]
        content: dict[str, Any] = {"gateway": {}} if learned else {"model_list": [entry("bert", urls)]}
        environ = {"INFINITY_API_BASE": ",".join(urls)} if learned else {}
        probed = await infinity_gateway(
            "check", "--probe", str(written(config_file, content)), environ=environ
        )

    assert probed.code == 1
    [failed] = [line for line in probed.out.splitlines() if line.startswith("failed: ")]
    assert failed.startswith(f"failed: {odd.url} (bert): does not answer a fixed text as ")
    assert one.url.removeprefix("http://") in failed


async def test_a_probe_of_servers_whose_models_are_learned(config_file: Path) -> None:
    """Their models are told."""
    async with FakeInfinity() as fake:
        environ = {"INFINITY_API_BASE": fake.url}
        probed = await infinity_gateway(
            "check", "--probe", str(written(config_file, {"gateway": {}})), environ=environ
        )

    assert probed.code == 0
    assert "serves bert, cross" in probed.out

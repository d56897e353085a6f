"""The configurations, programs and commands of the pages do what the pages say, in front of stand-ins."""

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.config import Config, load
from tests.deploy.chart import helm, of_kind
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.fakes.infinity import FakeInfinity, FakeModel
from tests.gateway_process import GatewayProcess

DOCS = ROOT / "docs"
MIGRATING, QUICKSTART, OPERATING = (DOCS / f"{page}.md" for page in ("migrating", "quickstart", "operating"))
SECRETS = {name: f"sk-{name}" for name in ("GATEWAY_MASTER_KEY", "LITELLM_MASTER_KEY", "RAG_KEY")}
BGE = "BAAI/bge-small-en-v1.5"
MODELS = (FakeModel(BGE), FakeModel("reranker", ("rerank",)))

CONFIGURATIONS = [
    block
    for page in PAGES
    for block in blocks(page, "yaml")
    if re.match(r"# (gateway|litellm)\.yaml\n", block.text)
]


def file_name(block: Block) -> str:
    return f"{block.page.name}-{block.heading}-{block.text[2:9]}"


def one(page: Path, heading: str, language: str, containing: str) -> str:
    [text] = [
        block.text
        for block in blocks(page, language)
        if block.heading == heading and containing in block.text
    ]
    return text


def written(text: str, folder: Path) -> Config:
    file = folder / "file.yaml"
    file.write_text(text)
    return load(file, SECRETS)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=file_name)
def test_check_takes_it(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a warning, unless it is LiteLLM's."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "gateway.yaml"
    file.write_text(block.text)
    assert main(["check", str(file)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert ("warning:" in output.out) == block.text.startswith("# litellm.yaml")


def test_there_are_configurations() -> None:
    assert len(CONFIGURATIONS) >= 5


def test_what_stands_for_litellms_file_is_the_same(tmp_path: Path) -> None:
    before = written(one(MIGRATING, "From LiteLLM", "yaml", "# litellm.yaml"), tmp_path)
    after = written(one(MIGRATING, "From LiteLLM", "yaml", "# gateway.yaml"), tmp_path)
    assert before.engine.pools == after.engine.pools
    assert (before.engine.retry, before.engine.limits, before.master_key) == (
        after.engine.retry, after.engine.limits, after.master_key,
    )  # fmt: skip
    said = " ".join(before.warnings)
    for word in ("rpm", "drop_params", "cache", "routing_strategy", "openai/gpt-4o"):
        assert word in said, word


@asynccontextmanager
async def stand_in() -> AsyncIterator[FakeInfinity]:
    async with FakeInfinity(MODELS) as fake:
        yield fake


async def run(*command: str, environ: Mapping[str, str] | None = None) -> str:
    """Its output. A command that fails is a failure."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def answers(commands: str) -> list[object]:
    """Of each curl in a block, what it printed."""
    joined = commands.replace("\\\n", " ").replace("curl ", "curl --silent --show-error --fail-with-body ")
    return [json.loads(await run("bash", "-c", line)) for line in joined.splitlines() if line]


async def test_the_program_after_litellm() -> None:
    program = one(MIGRATING, "From LiteLLM", "python", "from gateway import")
    async with stand_in() as fake:
        environ = {"INFINITY_API_BASE": fake.url}
        printed = await run(sys.executable, "-W", "ignore", "-c", program, environ=environ)
    assert re.fullmatch(r"8 (Paris|London)\n", printed)


async def test_the_call_after_infinitys_own() -> None:
    """The same ranking, with the port of each as it is here."""
    before = one(MIGRATING, "From calling Infinity", "sh", "localhost:7997")
    after = one(MIGRATING, "From calling Infinity", "sh", "localhost:4000")
    async with stand_in() as fake, GatewayProcess(environ={"INFINITY_API_BASE": fake.url}) as gateway:
        await gateway.wait_ready(2)
        [direct] = await answers(before.replace("http://localhost:7997", fake.url))
        [through] = await answers(after.replace("http://localhost:4000", gateway.url))
    assert isinstance(direct, dict)
    assert isinstance(through, dict)
    assert direct["results"]
    assert {key: through[key] for key in ("object", "results", "model", "usage")} == {
        key: direct[key] for key in ("object", "results", "model", "usage")
    }
    assert direct.keys() == through.keys()


async def test_the_quick_start() -> None:
    """Its requests, to a gateway that is started as it says."""
    starting = one(QUICKSTART, "Your Infinity servers", "sh", "INFINITY_API_BASE=")
    [(bases, command)] = re.findall(
        r"^INFINITY_API_BASE=(\S+) infinity-gateway (.*)$", starting, re.MULTILINE
    )
    assert command == "serve"
    asking = one(QUICKSTART, "Your Infinity servers", "sh", "curl")
    async with stand_in() as first, stand_in() as second:
        servers = (first.url, second.url)
        assert len(servers) == len(bases.split(","))
        async with GatewayProcess(environ={"INFINITY_API_BASE": ",".join(servers)}) as gateway:
            await gateway.wait_ready(4)
            models, vectors, status = await answers(asking.replace("http://localhost:4000", gateway.url))
    assert BGE in str(models)
    assert isinstance(vectors, dict)
    assert len(vectors["data"]) == 3
    for server in servers:
        assert server.removeprefix("http://") in str(status)


def test_the_quick_starts_chart() -> None:
    """It installs a gateway before two servers, with a Service at the port that is forwarded."""
    commands = one(QUICKSTART, "Kubernetes", "sh", "helm install").replace("\\\n", " ").splitlines()
    [installing] = [shlex.split(line) for line in commands if line.startswith("helm install")]
    done = helm("template", *installing[2:3], ROOT / installing[3], *installing[4:])
    assert done.returncode == 0, done.stderr
    parts = [part for part in yaml.safe_load_all(done.stdout) if part]
    deployment, service = of_kind(parts, "Deployment"), of_kind(parts, "Service")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    bases = next(entry["value"] for entry in container["env"] if entry["name"] == "INFINITY_API_BASE")
    assert len(bases.split(",")) == 2
    [built] = [shlex.split(line) for line in commands if line.startswith("docker build")]
    assert container["image"] == built[built.index("--tag") + 1]
    [forwarded] = [line for line in commands if line.startswith("kubectl port-forward")]
    assert f"service/{service['metadata']['name']} 4000:{service['spec']['ports'][0]['port']}" in forwarded


async def test_the_quick_starts_file(tmp_path: Path) -> None:
    """`check --probe` finds its servers, once they are where the stand-ins are."""
    text = one(QUICKSTART, "Your Infinity servers", "yaml", "# gateway.yaml")
    commands = one(QUICKSTART, "Your Infinity servers", "sh", "check gateway.yaml")
    assert "infinity-gateway check gateway.yaml --probe\n" in commands
    async with stand_in() as first, stand_in() as second:
        text = text.replace("http://infinity-0:7997", first.url).replace("http://infinity-1:7997", second.url)
        (tmp_path / "gateway.yaml").write_text(text)
        printed = await run(
            *(sys.executable, "-m", "gateway", "check", str(tmp_path / "gateway.yaml"), "--probe"),
            environ=SECRETS,
        )
    assert printed.count("ok: ") == 2


async def test_the_first_command_of_an_operator() -> None:
    """It says of each server why, also of one that is down, and asks with the key."""
    command = one(OPERATING, "First", "sh", "/status")
    async with stand_in() as up:
        environ = {"INFINITY_API_BASE": f"{up.url},http://127.0.0.1:1", "GATEWAY_MASTER_KEY": "sk-night"}
        async with GatewayProcess(environ=environ) as gateway:
            await gateway.wait_ready(2)
            command = command.replace("http://localhost:4000", gateway.url)
            printed = await run("bash", "-c", command, environ=environ)
    assert f"{BGE}  {up.url.removeprefix('http://')}  up  closed  answers" in printed.splitlines()


def test_what_an_operators_commands_name_is_there() -> None:
    """In compose.yaml, and in what the chart makes of its defaults with servers of its own."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    logs = re.findall(r"15m (.*)", one(OPERATING, "First", "sh", "docker compose"))
    named = {name for line in logs for name in line.split()}
    assert named == {name for name in services if name.startswith(("gateway", "infinity"))}

    options = ("--set", "infinity.enabled=true,secret.existing=infinity-gateway")
    done = helm("template", "infinity-gateway", ROOT / "deploy/helm/infinity-gateway", *options)
    assert done.returncode == 0, done.stderr
    parts = [part for part in yaml.safe_load_all(done.stdout) if part]
    gateway, servers = of_kind(parts, "Deployment"), of_kind(parts, "StatefulSet", "-infinity")
    labels = [part["spec"]["template"]["metadata"]["labels"] for part in (gateway, servers)]
    commands = one(OPERATING, "First", "sh", "kubectl")
    names = ", ".join(each["app.kubernetes.io/name"] for each in labels)
    assert f"app.kubernetes.io/name in ({names})" in commands
    components = [each["app.kubernetes.io/component"] for each in labels]
    assert re.findall(r"/component=(\w+)", commands) == components
    assert f"exec deployment/{gateway['metadata']['name']} " in commands
    [container] = gateway["spec"]["template"]["spec"]["containers"]
    [(command, file)] = re.findall(r"(\S+) check (\S+)", commands)
    assert file in container["args"]
    assert f'ENTRYPOINT ["{command}"]' in (ROOT / "Dockerfile").read_text()
    [(service, port)] = re.findall(r"service/(\S+) 4000:(\d+)", commands)
    ports = {
        part["metadata"]["name"]: part["spec"]["ports"][0]["port"]
        for part in parts
        if part["kind"] == "Service"
    }
    assert ports[service] == int(port)

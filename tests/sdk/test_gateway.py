"""`Gateway`: an engine in the loop of whoever holds it."""

import asyncio
import threading
from pathlib import Path

import pytest
import yaml

from gateway import Gateway
from gateway.errors import ConfigError, Draining
from tests.api.waiting import until
from tests.fakes.faults import contains
from tests.fakes.infinity import FakeInfinity, Fault, vector_of


@pytest.fixture
def config_file(tmp_path: Path, fake_infinity: FakeInfinity) -> Path:
    file = tmp_path / "gateway.yaml"
    params = {"model": "infinity/bert", "api_base": fake_infinity.url}
    content = {
        "model_list": [{"model_name": "small", "litellm_params": params}],
        "router_settings": {"model_group_alias": {"text-embedding-3-small": "small"}},
    }
    file.write_text(yaml.safe_dump(content))
    return file


async def test_the_servers_of_an_address(fake_infinity: FakeInfinity) -> None:
    """Their models are learned before the first call is answered, in this thread."""
    async with Gateway(api_base=fake_infinity.url) as gateway:
        embedded = await gateway.embedding(model="infinity/bert", input=["one"])
        ranked = await gateway.rerank(model="cross", query="q", documents=["a", "b"], top_n=1)

    assert embedded.data[0].embedding == vector_of("one").tolist()
    assert len(ranked.results) == 1
    assert not any(thread.name == "infinity-gateway" for thread in threading.enumerate())


async def test_the_servers_of_the_environment(
    fake_infinity: FakeInfinity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their key."""
    monkeypatch.setenv("INFINITY_API_BASE", fake_infinity.url)
    monkeypatch.setenv("INFINITY_API_KEY", "k")
    async with Gateway() as gateway:
        await gateway.embedding("bert", "one")

    assert {request.headers["Authorization"] for request in fake_infinity.requests} == {"Bearer k"}


async def test_the_models_of_a_file(config_file: Path) -> None:
    """By their names and aliases there."""
    async with Gateway(config_file) as gateway:
        for name in ("small", "infinity/small", "text-embedding-3-small"):
            response = await gateway.embedding(name, "one")
            assert response.data[0].embedding == vector_of("one").tolist()


async def test_calls_of_one_turn_share_a_batch(fake_infinity: FakeInfinity) -> None:
    """The same engine as behind HTTP."""
    async with Gateway(api_base=fake_infinity.url) as gateway:
        await gateway.embedding("bert", "first")
        await asyncio.gather(*(gateway.embedding("bert", f"text {i}") for i in range(20)))

    assert sorted(fake_infinity.batches[-1]) == sorted(f"text {i}" for i in range(20))


async def test_leaving_ends_what_is_under_way(fake_infinity: FakeInfinity) -> None:
    """With an error that says so; nothing hangs."""
    fake_infinity.faults.append(Fault(hang=True, when=contains("slow")))
    async with Gateway(api_base=fake_infinity.url) as gateway:
        call = asyncio.create_task(gateway.embedding("bert", "slow"))
        await until(lambda: ["slow"] in fake_infinity.batches)

    with pytest.raises(Draining):
        await call


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"api_base": "nowhere"}, "api_base: expected http://HOST:PORT"),
        ({}, "api_base: no server is named; pass api_base, or set INFINITY_API_BASE"),
        ({"config": "missing.yaml"}, "missing.yaml: cannot be read"),
        ({"config": "a.yaml", "api_base": "http://a"}, "expected either config or api_base"),
    ],
)
def test_what_cannot_be_a_gateway_is_explained(
    arguments: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is made, not when it is called."""
    monkeypatch.delenv("INFINITY_API_BASE", raising=False)

    with pytest.raises(ConfigError, match=problem):
        Gateway(**arguments)


async def test_it_says_how_it_is_used(fake_infinity: FakeInfinity) -> None:
    """A call on one that was not entered."""
    with pytest.raises(RuntimeError, match="async with Gateway"):
        await Gateway(api_base=fake_infinity.url).embedding("bert", "one")

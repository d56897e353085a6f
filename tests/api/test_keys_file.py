"""Keys in a file that changes while the gateway runs."""

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from gateway import bootstrap
from gateway.config import Config, parse
from tests.api.caller import Caller
from tests.api.waiting import until
from tests.fakes.infinity import FakeInfinity
from tests.gateway_in_process import GatewayInProcess

ANN, BOB = "sk-ann", "sk-bob"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_KEYS_INTERVAL_S", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As Kubernetes mounts a secret: a link into a folder that is a link to the one that counts."""
    mounted(tmp_path, ANN)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    return tmp_path


def mounted(folder: Path, *keys: str, content: str | None = None) -> Path:
    """The next version of the secret, which does not count yet."""
    version = folder / f"..{len(list(folder.glob('..[0-9]*'))) + 1}"
    version.mkdir()
    records = [{"name": key.removeprefix("sk-"), "key": key} for key in keys]
    (version / "keys.yaml").write_text(yaml.safe_dump(records) if content is None else content)
    return version


def swap(folder: Path, version: Path) -> None:
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")


def config(fake: FakeInfinity, folder: Path) -> Config:
    params = {"model": "infinity/bert", "api_base": fake.url}
    content = {
        "model_list": [{"model_name": "bert", "litellm_params": params}],
        "gateway": {"keys_file": "keys.yaml"},
    }
    return parse(yaml.safe_dump(content), {}, folder)


@pytest.fixture
async def caller(fake_infinity: FakeInfinity, folder: Path) -> AsyncIterator[Caller]:
    async with (
        GatewayInProcess(config(fake_infinity, folder)) as gateway,
        Caller(gateway.url) as caller,
    ):
        yield caller


async def allows(caller: Caller, key: str) -> bool:
    body = {"model": "bert", "input": "one"}
    reply = await caller.post("/v1/embeddings", body, Authorization=f"Bearer {key}")
    assert reply.status in (200, 401)
    return reply.status == 200


async def until_allowed(caller: Caller, *keys: str) -> None:
    """Until these are, and the other is not."""

    async def so() -> bool:
        return [await allows(caller, key) for key in (ANN, BOB)] == [key in keys for key in (ANN, BOB)]

    await until(so)


@pytest.mark.proves(
    "a key is taken out of the file of keys", caller="401 within seconds, without a restart", kind="attack"
)
async def test_a_secret_that_is_mounted_anew_counts(caller: Caller, folder: Path) -> None:
    """Who is new gets in, who is out is out."""
    await until_allowed(caller, ANN)

    swap(folder, mounted(folder, ANN, BOB))
    await until_allowed(caller, ANN, BOB)
    swap(folder, mounted(folder, BOB))
    await until_allowed(caller, BOB)
    swap(folder, mounted(folder, content="[]"))
    await until_allowed(caller)


async def test_a_file_written_in_place_counts(caller: Caller, folder: Path) -> None:
    """Even where size and time of its last change are the same."""
    file = folder / "keys.yaml"
    before = file.stat()

    file.write_text(file.read_text().replace("ann", "bob"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert file.stat().st_size == before.st_size
    await until_allowed(caller, BOB)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- {name: ann, key: sk-other", "not valid YAML"),
        ("", "expected a list of keys, got nothing"),
        ("- {name: ann, keys: sk-other}", "unknown key; did you mean key?; "),
        ("- {name: ann, key: sk-x}\n- {name: bob, key: sk-x}\n", "got the same as"),
        (None, "cannot be read"),
    ],
    ids=["no YAML", "empty", "a slip", "a key twice", "gone"],
)
async def test_a_broken_file_changes_nothing(
    caller: Caller, folder: Path, content: str | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, without a key; and the next good one counts, be it the one of before."""
    caplog.set_level(logging.INFO, "gateway")
    good = (folder / "..data").resolve()
    if content is None:
        (folder / "..data").unlink()
    else:
        swap(folder, mounted(folder, content=content))
    broken = await caller.samples_when("config_reload_success", 0)
    await until_allowed(caller, ANN)

    swap(folder, good)
    await caller.samples_when("config_reload_success", 1)
    await until_allowed(caller, ANN)

    assert broken.value("config_reload_success") == 0
    told = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert len(told) == 1
    assert problem in told[0]
    assert "keys.yaml" in told[0]
    assert "sk-" not in caplog.text


async def test_a_bug_in_reading_loses_no_key(
    caller: Caller, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next look may do better."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: 1 / 0)
        await until(lambda: "ZeroDivisionError" in caplog.text)
        await until_allowed(caller, ANN)

    swap(folder, mounted(folder, BOB))
    await until_allowed(caller, BOB)

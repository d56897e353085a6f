"""When a changed file is read again, and what of it needs a restart."""

import asyncio
from pathlib import Path

import pytest

from gateway.config import Config, parse
from gateway.errors import ConfigError
from gateway.reload import ConfigFile, Watch, in_force

GOOD = "model_list: [{model_name: a, litellm_params: {model: infinity/a, api_base: 'http://x'}}]\n"
MORE = GOOD + "gateway: {limits: {items_max: 7}}\n"


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    found = ConfigFile(tmp_path / "gateway.yaml", {})
    found.load()
    return found


def test_a_change_is_read_once_it_lasts(file: ConfigFile) -> None:
    """Half a file may be a whole configuration."""
    assert file.load_if_changed(asked=False) is None
    file.path.write_text(GOOD[:-1])
    assert file.load_if_changed(asked=False) is None
    file.path.write_text(MORE)
    assert file.load_if_changed(asked=False) is None
    found = file.load_if_changed(asked=False)
    assert found is not None
    assert found.engine.limits.items_max == 7
    assert file.load_if_changed(asked=False) is None


def test_who_asks_does_not_wait(file: ConfigFile) -> None:
    file.path.write_text(MORE)
    assert file.load_if_changed(asked=True) == parse(MORE, {})
    assert file.load_if_changed(asked=True) == parse(MORE, {})
    assert file.load_if_changed(asked=False) is None


def test_a_wrong_file_is_told_once(file: ConfigFile) -> None:
    """One that is gone, too; and that of before counts again."""
    file.path.unlink()
    assert file.load_if_changed(asked=False) is None
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        file.load_if_changed(asked=False)
    assert file.load_if_changed(asked=False) is None
    file.path.write_text(GOOD)
    assert file.load_if_changed(asked=False) is None
    assert file.load_if_changed(asked=False) == parse(GOOD, {})


def test_what_cannot_run_here_is_refused(tmp_path: Path) -> None:
    def check(config: Config) -> None:
        if config.engine.limits.items_max == 7:
            raise ConfigError(["not here"])

    (tmp_path / "gateway.yaml").write_text(GOOD)
    file = ConfigFile(tmp_path / "gateway.yaml", {}, check)
    file.load()
    file.path.write_text(MORE)
    with pytest.raises(ConfigError, match="not here"):
        file.load_if_changed(asked=True)


async def test_asked_while_it_reads_it_reads_once_more() -> None:
    """And a bug ends nothing."""
    reads, taken, shown = list[bool](), list[int](), list[object]()
    done = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))

    def read(asked: bool) -> int:
        reads.append(asked)
        if len(reads) <= 2:
            loop.call_soon_threadsafe(watch.ask)
        return 1 // (len(reads) - 1)

    def take(value: int) -> None:
        taken.append(value)
        if len(taken) == 2:
            done.set()

    loop = asyncio.get_running_loop()
    watch = Watch(read, take, lambda _: None, 600.0)
    watching = asyncio.create_task(watch.run())
    async with asyncio.timeout(5):
        await done.wait()
    watching.cancel()

    assert reads == [False, True, True]
    assert len(shown) == 1


def test_telemetry_needs_a_restart() -> None:
    before, after = parse(GOOD, {}), parse(MORE.replace("{limits", "{telemetry: false, limits"), {})
    config, fixed = in_force(after, before)
    assert fixed == ("gateway.telemetry",)
    assert config.telemetry is None
    assert config.engine.limits.items_max == 7
    assert in_force(before, before) == (before, ())

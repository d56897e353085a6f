"""Keys in the configuration and in a file of their own: what they come to, and what is said of bad ones."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, KeysFile, describe, load, parse
from gateway.core.settings import KeySettings, Secret
from gateway.errors import ConfigError

KEY = "hunter2-hunter2-hunter2"
HEX = hashlib.sha256(KEY.encode()).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
PARAMS = {"model": "infinity/a", "api_base": "http://h"}


def content(*keys: Any, master_key: str | None = None, **gateway: Any) -> str:
    document = {
        "model_list": [{"model_name": "bge-small", "litellm_params": PARAMS}],
        "router_settings": {"model_group_alias": {"ada": "bge-small"}},
        "general_settings": {"master_key": master_key},
        "gateway": {"keys": list(keys), **gateway},
    }
    return yaml.safe_dump(document, sort_keys=False)


def read(*keys: Any, environ: dict[str, str] | None = None, **more: Any) -> Config:
    return parse(content(*keys, **more), environ or {})


def problems(*keys: Any, **more: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        read(*keys, **more)
    for problem in raised.value.problems:
        assert "hunter2" not in problem
        assert HEX[:8] not in problem
    return raised.value.problems


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def test_a_key_with_everything_is_read() -> None:
    """Plain, as a variable, or as its SHA-256, in small letters or capitals: only the digest is kept."""
    whole = {
        "name": "rag service",
        "key": KEY,
        "models": ["bge-*", "ada"],
        "requests_per_minute": 600,
        "items_per_minute": "os.environ/ITEMS",
        "concurrency": 8,
        "priority": "bulk",
    }
    config = read(
        whole,
        {"name": "b", "sha256": OTHER.upper(), "priority": "interactive"},
        {"name": "c", "key": "os.environ/C"},
        environ={"C": "from-variable\n", "ITEMS": "60000"},
    )

    assert config.keys == (
        KeySettings("rag service", digest(KEY), ("bge-*", "ada"), 600, 60000, 8, bulk=True),
        KeySettings("b", digest("other")),
        KeySettings("c", digest("from-variable")),
    )
    assert config.keyed
    assert config.warnings == ()
    assert "hunter2" not in repr(config)
    assert repr(digest(KEY)) not in repr(config)


def test_without_keys_there_are_none() -> None:
    """Nor with an empty list of them, which is what the example of the docs has."""
    assert not read().keyed
    assert read(master_key="sk-1").keyed
    assert read().open_routes == {"metrics", "docs"}
    assert read(open_routes=[]).open_routes == frozenset()
    assert read(open_routes=["status"]).open_routes == {"status"}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ({"name": "a"}, "[0]: expected either key or sha256, got none of them"),
        ({"name": "a", "key": KEY, "sha256": HEX}, "[0]: expected either key or sha256, got both"),
        ({"key": KEY}, "[0].name: expected a name, got nothing"),
        ({"name": KEY + "\n", "key": KEY}, "[0].name: expected up to 64 letters, digits, spaces and ._@/+-"),
        ({"name": "a", "key": " "}, "[0].key: expected a key, got blank text"),
        ({"name": "a", "key": 1234}, "[0].key: expected a key: text on one line, in quotes"),
        ({"name": "a", "key": [KEY]}, "[0].key: expected a key: text on one line"),
        ({"name": "a", "key": f"{KEY}\n{KEY}"}, "[0].key: expected a key: text on one line"),
        ({"name": "a", "key": "os.environ/NONE"}, "[0].key: the environment variable NONE is not set"),
        *(
            ({"name": "a", "sha256": bad}, "[0].sha256: expected the SHA-256 of a key: 64 hexadecimal digits")
            for bad in (HEX[:-1], HEX + "0", KEY, "", f"sha256:{HEX}")
        ),
        (
            {"name": "a", "key": KEY, "models": []},
            "[0].models: expected names of models; leave it out for all",
        ),
        ({"name": "a", "key": KEY, "models": "bge"}, "[0].models: expected a list, got text"),
        ({"name": "a", "key": KEY, "models": [1]}, "[0].models[0]: expected the name of a model, got 1"),
        (
            {"name": "a", "key": KEY, "requests_per_minute": 0},
            "[0].requests_per_minute: expected a whole number",
        ),
        ({"name": "a", "key": KEY, "items_per_minute": 1.5}, "[0].items_per_minute: expected a whole number"),
        ({"name": "a", "key": KEY, "concurrency": -1}, "[0].concurrency: expected a whole number above 0"),
        (
            {"name": "a", "key": KEY, "priority": "high"},
            "[0].priority: expected one of interactive, bulk, got",
        ),
        ({"name": "a", "key": KEY, "model": ["x"]}, "[0].model: unknown key; did you mean models?"),
        ({"name": "a", "key": KEY, f"key:{KEY}": None}, "[0]['...']: unknown key"),
        ({"name": "a", "key": KEY, f"sha256:{KEY}": None}, "[0]['...']: unknown key"),
        (KEY, "[0]: expected a mapping, got text"),
    ],
)
def test_a_bad_key_is_told_without_a_quotation(key: Any, found: str) -> None:
    """With its place and what was expected."""
    (problem,) = problems(key)

    assert problem.startswith(f"gateway.keys{found}")


def test_keys_differ_in_name_and_key() -> None:
    """Else it would be left to chance whose rules count."""
    assert problems({"name": "a", "key": KEY}, {"name": "a", "sha256": HEX}) == (
        "gateway.keys[1].name: expected a name of its own, got that of gateway.keys[0].name",
        "gateway.keys[1].sha256: expected a key of its own, got the same as gateway.keys[0].key",
    )
    assert problems({"name": "a", "sha256": HEX}, master_key=KEY) == (
        "gateway.keys[0].sha256: expected a key of its own, got the same as general_settings.master_key",
    )


def test_a_model_that_is_not_there_is_a_warning() -> None:
    """Several gateways may share their keys."""
    config = read({"name": "a", "key": KEY, "models": ["bge-smal", "bge-*", "ada"]})

    assert config.warnings == (
        "gateway.keys[0].models[0]: no model fits 'bge-smal'; did you mean bge-small?",
    )


@pytest.mark.parametrize("bad", ["nothing", ["status", "all"], {"status": True}])
def test_what_is_opened_is_one_of_the_pages(bad: Any) -> None:
    """A slip must not open or close another."""
    (problem,) = problems(open_routes=bad)

    assert problem.startswith("gateway.open_routes")


# The file


def written(folder: Path, keys: Any) -> Path:
    file = folder / "keys.yaml"
    file.write_text(keys if isinstance(keys, str) else yaml.safe_dump(keys))
    return file


def test_a_file_of_keys_is_read_beside_the_configuration(tmp_path: Path) -> None:
    """Relative to it; and with nothing in it, nobody is let in rather than everybody."""
    written(tmp_path, [{"name": "file", "sha256": HEX, "concurrency": 2}])
    (tmp_path / "gateway.yaml").write_text(content({"name": "own", "key": "own"}, keys_file="keys.yaml"))
    config = load(tmp_path / "gateway.yaml", {})
    written(tmp_path, [])
    empty = parse(content(keys_file=str(tmp_path / "keys.yaml")), {})

    assert config.keys_file == tmp_path / "keys.yaml"
    assert [key.name for key in config.keys] == ["own"]
    assert config.keys_in_file == (KeySettings("file", digest(KEY), concurrency=2),)
    assert empty.keys_in_file == ()
    assert empty.keyed


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("", "expected a list of keys, got nothing; [] is a list of none"),
        ("# none yet\n", "expected a list of keys, got nothing; [] is a list of none"),
        (f"{KEY}\n", "line 1, column 1: expected a list, got another kind of value"),
        (f"name: a\nkey: {KEY}\n", "line 1, column 1: expected a list, got another kind of value"),
        (f"- {{name: a, key: '{KEY}", "line 1, column 42: not valid YAML: found unexpected end of stream"),
        ([{"name": "own", "key": KEY}], "[0].name: expected a name of its own, got that of gateway.keys"),
        ([{"name": "a", "key": "own"}], "[0].key: expected a key of its own, got the same as gateway.keys"),
        (
            [{"name": "a", "key": "master"}],
            "[0].key: expected a key of its own, got the same as general_settings.master_key",
        ),
        ([{"name": "a", "key": KEY}, KEY], "[1]: expected a mapping, got text"),
    ],
)
def test_a_bad_file_of_keys_is_told_without_a_quotation(tmp_path: Path, keys: Any, found: str) -> None:
    """With its path, and the place in it."""
    file = written(tmp_path, keys)

    (problem,) = problems({"name": "own", "key": "own"}, master_key="master", keys_file=str(file))

    assert problem == f"gateway.keys_file: {file}: {found}"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A secret that failed to mount must not open the gateway to all."""
    file = tmp_path / "keys.yaml"
    assert problems(keys_file=str(file)) == (
        f"gateway.keys_file: {file}: cannot be read: No such file or directory",
    )
    file.write_bytes(b"- {name: a, key: hunter2\xff}")
    assert problems(keys_file=str(file)) == (
        f"gateway.keys_file: {file}: expected text in UTF-8, got another",
    )
    assert problems(keys_file="") == ("gateway.keys_file: expected the path of a file, got ''",)


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    """None where it is as it was; what is broken is told once, and again after another try at reading it."""
    path = written(tmp_path, [{"name": "a", "key": KEY}])
    file = KeysFile(path, Secret("master"), ())

    first, same = file.read_if_changed(), file.read_if_changed()
    written(tmp_path, [])
    changed = file.read_if_changed()
    written(tmp_path, "{")
    with pytest.raises(ConfigError, match="not valid YAML"):
        file.read_if_changed()
    still = file.read_if_changed()
    path.unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be read"):
            file.read_if_changed()

    assert first is not None
    assert [key.name for key in first] == ["a"]
    assert (same, changed, still) == (None, (), None)


def test_described_are_names_and_limits(tmp_path: Path) -> None:
    """`check` is shown around: neither a key nor its digest is in it."""
    file = written(tmp_path, [{"name": "file", "key": "in-file", "requests_per_minute": 5}])
    rules = {"models": ["bge-*", "ada"], "items_per_minute": 9, "concurrency": 3, "priority": "bulk"}
    config = read(
        {"name": "rag", "key": KEY, **rules},
        {"name": "all", "sha256": OTHER},
        master_key="master-key-text",
        keys_file=str(file),
        open_routes=["status", "docs"],
    )

    said = describe(config)

    assert said.splitlines()[-7:] == [
        "Callers' key: set",
        "Named keys",
        "  rag: bge-*, ada; 9 items a minute; 3 calls at once; bulk",
        "  all: all models",
        f"Named keys in {file}",
        "  file: all models; 5 requests a minute",
        "open_routes: docs, status",
    ]
    for secret in ("hunter2", HEX, OTHER, "in-file", "master-key-text", digest("in-file").hex()):
        assert secret not in said
    assert f"Named keys in {file}: none" in describe(read(keys_file=str(written(tmp_path, []))))

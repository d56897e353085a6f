"""The sdist and the wheel hold what they should, and the wheel works where nothing else of the project is."""

import json
import sys
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.api.caller import Caller
from tests.api.waiting import until
from tests.end_to_end.configs import entry, written
from tests.fakes.infinity import FakeInfinity, vector_of
from tests.gateway_process import GatewayProcess
from tests.packaging.builds import ROOT, inside, run
from tests.packaging.conftest import Installed

PAGE = {f"gateway/api/page.{kind}" for kind in ("html", "css", "js")}
DATA = {"gateway/py.typed", "gateway/README.md", *PAGE}


def modules() -> set[str]:
    return {file.relative_to(ROOT).as_posix() for file in (ROOT / "gateway").rglob("*.py")}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    files = inside(wheel)
    assert {name for name in files if ".dist-info/" not in name} == modules() | DATA
    assert {name.partition(".dist-info/")[2] for name in files} - {""} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    }
    for name in modules() | DATA:
        assert files[name] == (ROOT / name).read_bytes(), name


def test_the_sdist_holds_what_the_wheel_is_made_of(sdist: Path) -> None:
    names = {name for name in inside(sdist) if ".egg-info/" not in name}
    assert names == modules() | DATA | {
        *(
            "CHANGELOG.md",
            "LICENSE",
            "MANIFEST.in",
            "PKG-INFO",
            "README.md",
            "pyproject.toml",
            "setup.cfg",
            "setup.py",
        )
    }


def test_the_metadata_say_what_it_is(wheel: Path) -> None:
    (raw,) = (data for name, data in inside(wheel).items() if name.endswith(".dist-info/METADATA"))
    metadata = BytesParser().parsebytes(raw)
    assert metadata["Name"] == "infinity-gateway"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


@pytest.fixture
def python(installed: Installed) -> Path:
    return installed.bin / "python"


def test_what_is_imported_is_what_was_installed(python: Path, installed: Installed) -> None:
    where = "import gateway, sys; print(gateway.__file__); print(*sys.path, sep='\\n')"
    found, *path = run(python, "-c", where, cwd=installed.folder).splitlines()
    assert Path(found).is_relative_to(installed.bin.parent)
    assert str(ROOT) not in path


def test_its_command_says_its_version_and_checks_a_file(installed: Installed, tmp_path: Path) -> None:
    command = installed.bin / "infinity-gateway"
    assert run(command, "--version", cwd=tmp_path).startswith("infinity-gateway ")
    file = written(tmp_path / "gateway.yaml", {"model_list": [entry("bert", ["http://127.0.0.1:9"])]})
    assert "bert" in run(command, "check", file, cwd=tmp_path)


async def test_it_serves_calls_and_its_page(installed: Installed, fake_infinity: FakeInfinity) -> None:
    process = GatewayProcess(
        environ={"INFINITY_API_BASE": fake_infinity.url, "PYTHONPATH": ""},
        directory=installed.folder,
        python=installed.bin / "python",
    )
    async with process as gateway, Caller(gateway.url) as caller:

        async def serves() -> bool:
            return (await caller.get("/health/readiness")).status == 200

        await until(serves)
        reply = await caller.embed("a text")
        assert reply.vectors == [vector_of("a text").tolist()]
        page = await caller.get("/", Accept="text/html")
        assert page.status == 200
        assert json.loads((await caller.get("/openapi.json")).raw)["info"]["title"] == "infinity-gateway"


def test_type_checkers_see_its_types(installed: Installed, tmp_path: Path) -> None:
    """`py.typed` came along: without it all of this would be Any, and the error not found."""
    file, settings = tmp_path / "caller.py", tmp_path / "mypy.ini"
    file.write_text("from gateway import GatewayError\nmessage: int = GatewayError('none')\n")
    # The rest of the package would take long.
    settings.write_text("[mypy]\nstrict = true\n[mypy-gateway.sdk]\nfollow_imports = skip\n")
    options = ("--config-file", settings, "--cache-dir", tmp_path / "cache", "--python-executable")
    with pytest.raises(AssertionError, match='expression has type "GatewayError", variable has type "int"'):
        run(sys.executable, "-m", "mypy", *options, installed.bin / "python", file, cwd=tmp_path)

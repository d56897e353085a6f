"""What says the version says the same, and the bills of what is shipped name what the image installs."""

import json
import re
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway import __version__
from gateway.api.documentation import render_openapi
from gateway.cli import main
from gateway.core.settings import LimitsSettings
from tests.packaging.builds import ROOT

PLACES = {
    "pyproject.toml": r'(?m)^version = "(.+)"$',
    "CHANGELOG.md": r"(?m)^## \[([0-9][^\]]*)\]",
    "Dockerfile": r'org\.opencontainers\.image\.version="(.+?)"',
    "compose.yaml": r"image: infinity-gateway:(\S+)",
    "deploy/helm/infinity-gateway/Chart.yaml": r"(?m)^version: (\S+)",
    "deploy/kubernetes/deployment.yaml": r"image: infinity-gateway:(\S+)",
}  # fmt: skip


@pytest.mark.parametrize("file", PLACES)
def test_a_file_says_the_version_of_the_package(file: str) -> None:
    """In the changelog: that of its uppermost release."""
    found = re.search(PLACES[file], (ROOT / file).read_text())
    assert found
    assert found[1] == __version__


def test_the_chart_installs_the_image_of_its_version() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/infinity-gateway/Chart.yaml").read_text())
    assert str(chart["appVersion"]) == __version__


def test_the_command_and_the_api_say_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"infinity-gateway {__version__}\n"
    assert render_openapi(LimitsSettings())["info"]["version"] == __version__ == version("infinity-gateway")


def test_each_release_in_the_changelog_says_when_and_what() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.split(r"(?m)^## ", text)[1:]
    assert releases
    for release in releases:
        head, _, changes = release.partition("\n")
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|unreleased)", head), head
        kinds = re.findall(r"(?m)^### (.+)$", changes)
        assert kinds
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all("unreleased" not in release.partition("\n")[0] for release in releases[1:])


def pinned() -> dict[str, str]:
    """A package of the image → its version, on the Python that the image has."""
    base = re.search(r"(?m)^ARG BASE=python:(\S+?)-", (ROOT / "Dockerfile").read_text())
    assert base
    python = {"python_full_version": base[1], "python_version": ".".join(base[1].split(".")[:2])}
    lines = re.findall(r"(?m)^([a-z0-9].*?) \\$", (ROOT / "deploy/requirements.txt").read_text())
    found = dict[str, str]()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux", **python}):
            (only,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = only.version
    return found


def test_the_bills_name_what_the_image_installs() -> None:
    wanted = pinned()
    assert len(wanted) > 10
    bill = json.loads((ROOT / "deploy/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == __version__
    assert {canonicalize_name(part["name"]): part["version"] for part in bill["components"]} == wanted
    assert all(part["licenses"] for part in bill["components"])
    rows = re.findall(r"(?m)^\| (\S+) \| (\d\S*) \| .+ \|$", (ROOT / "THIRD_PARTY.md").read_text())
    assert {canonicalize_name(name): number for name, number in rows} == wanted

"""What the image is made of; tests/deploy/image.py runs it."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

from tests.deploy.chart import ROOT, TOOLS, run

_LOCKED = ROOT / "deploy/requirements.txt"


def test_the_dockerfile_lints() -> None:
    done = run(TOOLS / "venv/bin/hadolint", "--failure-threshold", "info", ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_locked_is_what_is_needed() -> None:
    """On the image's Python, 3.11."""
    text = _LOCKED.read_text()
    wanted = [Requirement(line.split(" \\")[0]) for line in text.splitlines() if not line.startswith(" ")]
    assert text.count("--hash=sha256:") >= len(wanted)
    here = {"python_full_version": "3.11.14", "python_version": "3.11"}
    versions = {
        each.name: next(iter(each.specifier)).version
        for each in wanted
        if not each.marker or each.marker.evaluate(here)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for needed in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["otel"]]):
        assert Version(versions[needed.name.lower()]) in needed.specifier, f"make lock: {needed}"


def test_all_that_is_copied_is_let_into_the_build() -> None:
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        name.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for name in line.split()
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)

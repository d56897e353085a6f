"""One sdist, one wheel of it, and an environment in which that is installed."""

import os
import shutil
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.packaging.builds import ROOT, built, run


@pytest.fixture(scope="package")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a copy: setuptools leaves folders where it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    texts = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
    for name in ("gateway", "tests", *texts):
        path = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    return built("sdist", source, target)


@pytest.fixture(scope="package")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, folder, filter="data")
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="package")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sdist, as whoever installs from it gets it."""
    return built("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


class Installed(NamedTuple):
    bin: Path
    folder: Path
    """Without anything of the repository."""


@pytest.fixture(scope="package")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel and nothing else in an environment of its own. What it depends on is that of the tests, which
    stands behind it on the path without what links to this repository: that they suffice as they are declared
    is seen by `make package`, which installs them anew."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "empty").mkdir()
    if clean := os.environ.get("PACKAGE_VENV"):
        return Installed(Path(clean) / "bin", folder / "empty")
    wheel = request.getfixturevalue("wheel")
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv").glob("lib/python3.*/site-packages")
    run(sys.executable, "-m", "pip", "--python", folder / "venv", "install", "--quiet", "--no-deps", wheel)
    # A folder in a .pth is put on the path, and its own .pth files are not read: no editable install.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(folder / "venv/bin", folder / "empty")

"""The wheel and the sdist, built offline with the setuptools that is installed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Its standard output; raises AssertionError with all that it said when it fails."""
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def built(kind: str, source: Path, target: Path) -> Path:
    """`kind`: sdist or wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", target, source)
    (file,) = target.iterdir()
    return file


def inside(file: Path) -> dict[str, bytes]:
    """Each file's content by its path; in an sdist below its one folder."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(file) as sdist:
        return {
            member.name.partition("/")[2]: part.read()
            for member in sdist.getmembers()
            if member.isfile() and (part := sdist.extractfile(member))
        }

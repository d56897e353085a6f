"""Look for inputs that a target handles wrongly, and keep those that reach new code.

    python -m fuzz [--seconds 60] [TARGET ...]

What fails is kept too: the tests that replay the corpus fail until it is mended. Exits with 1 then.
"""

import argparse
import ast
import importlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz import corpus

_INPUT_S_MAX = 10
_MEMORY_MIB_MAX = 2048


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("targets", nargs="*", choices=[*corpus.TARGETS, []], metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--search", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets or corpus.TARGETS
    if options.search:
        _search(targets[0], options.search, options.seconds)
    return max(_look(target, options.seconds) for target in targets)


def _look(target: str, seconds: int) -> int:
    """Search in a process of its own, which a bug may end, and keep what it found."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, failed = Path(folder, "inputs"), Path(folder, "failed")
        inputs.mkdir()
        failed.mkdir()
        check, seeds = _target(target)
        for number, data in enumerate([*seeds, *corpus.read(target)]):
            (inputs / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "fuzz", target, "--seconds", str(seconds), "--search", folder]
        status = subprocess.run(command, check=False).returncode
        found = [path.read_bytes() for path in inputs.iterdir()]
        wrong = [path.read_bytes() for path in failed.iterdir()]
    corpus.write(target, [*corpus.least(check, seeds, found), *wrong])
    print(f"{target}: {len(corpus.read(target))} inputs, {len(wrong)} of them handled wrongly", flush=True)
    return 1 if status or wrong else 0


def _search(target: str, folder: str, seconds: int) -> None:
    """Does not return."""
    import atheris  # here, since all else does without

    with atheris.instrument_imports(include=["gateway"]):
        check, _ = _target(target)
    words = Path(folder, "words")
    words.write_text("".join(f'"{word}"\n' for word in sorted(_words())))
    options = {
        "max_total_time": seconds,
        "timeout": _INPUT_S_MAX,
        "rss_limit_mb": _MEMORY_MIB_MAX,
        "artifact_prefix": f"{folder}/failed/",
        "print_final_stats": 1,
        "verbosity": 0,
        "dict": str(words),
    }
    atheris.Setup(
        ["fuzz", *(f"-{name}={value}" for name, value in options.items()), os.path.join(folder, "inputs")],
        check,
    )
    atheris.Fuzz()


def _target(name: str) -> tuple[Callable[[bytes], None], Sequence[bytes]]:
    """Its check and its seeds."""
    logging.getLogger("gateway").setLevel(logging.ERROR)
    module = importlib.import_module(f"fuzz.fuzz_{name}")
    return module.check, module.SEEDS


def _words() -> set[str]:
    """Names of fields, routes, headers and values: what our code says in quotes."""
    return {
        word
        for file in (corpus.ROOT.parent / "gateway").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for word in re.findall(r"[a-z0-9_/:.*-]{2,24}", node.value.strip())
        if word == node.value.strip() or "_" in word
    }


if __name__ == "__main__":
    sys.exit(main())

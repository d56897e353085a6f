"""`infinity-gateway bench` in this process."""

import argparse
import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.bench.command import add_options, bench


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.out)
        return said


async def run(*arguments: str, environ: Mapping[str, str] | None = None) -> Ended:
    """Raises what the command line ends with: StartError, or SystemExit of argparse."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = await bench(parser.parse_args(arguments), environ or {})
    return Ended(code, out.getvalue(), err.getvalue())

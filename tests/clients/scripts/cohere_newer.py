"""The same with the newest cohere, which lies in a folder of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys.prefix) / "newer"))

from tests.clients.scripts import cohere_python  # noqa: F401

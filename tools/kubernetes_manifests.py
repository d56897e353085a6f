"""Write deploy/kubernetes, for those without Helm: the chart with its minimal values, a file a manifest."""

import re
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_CHART = _ROOT / "deploy/helm/infinity-gateway"
FOLDER = _ROOT / "deploy/kubernetes"


def manifests() -> dict[str, str]:
    """Each file's text by its name."""
    values = _CHART / "ci/minimal-values.yaml"
    command = (_ROOT / ".cache/bin/helm", "template", "infinity-gateway", _CHART, "--values", values)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - ours
    parts = [re.sub(r"(?m)^# Source: .*\n", "", part).strip() for part in re.split(r"(?m)^---$", text)]
    return {f"{_kind(part)}.yaml": part + "\n" for part in parts if part}


def _kind(manifest: str) -> str:
    found = re.search(r"(?m)^kind: (\w+)$", manifest)
    assert found
    return found[1].lower()


if __name__ == "__main__":
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, text in manifests().items():
        (FOLDER / name).write_text(text)

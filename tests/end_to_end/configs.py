"""Configuration files as an operator would write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def entry(name: str, bases: Sequence[str], *, model: str = "", **params: Any) -> dict[str, Any]:
    """One of `model_list`."""
    return {
        "model_name": name,
        "litellm_params": {"model": f"infinity/{model or name}", "api_bases": list(bases), **params},
    }


def written(file: Path, content: dict[str, Any]) -> Path:
    # Through JSON, so that no two places of the file are one object to YAML.
    file.write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    return file

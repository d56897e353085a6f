"""What is written for people is what the chart does."""

import re
from pathlib import Path

import pytest
import yaml

from gateway.config import load
from tests.deploy.chart import CHART, ROOT, TOOLS, helm, manifests, of_kind, rendered, run
from tools.kubernetes_manifests import FOLDER
from tools.kubernetes_manifests import manifests as plain


def test_the_plain_manifests_are_up_to_date() -> None:
    written = {file.name: file.read_text() for file in FOLDER.glob("*.yaml")}
    assert written == plain(), "make manifests"


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """Those of the README: three servers behind an ingress."""
    section = (ROOT / "README.md").read_text().partition("\n## Deploy\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```yaml\n(# values.yaml\n.*?)```", section, re.DOTALL)
    file = tmp_path / "values.yaml"
    file.write_text(block)
    return file


def test_the_readmes_values_are_three_servers_behind_an_ingress(values: Path, tmp_path: Path) -> None:
    assert helm("lint", "--strict", "--quiet", CHART, "--values", values).returncode == 0
    text = rendered(values)
    (tmp_path / "out.yaml").write_text(text)
    done = run(TOOLS / "venv/bin/kubernetes-validate", "-k", "1.37", "--strict", tmp_path / "out.yaml")
    assert done.returncode == 0, done.stdout + done.stderr

    parts = manifests(values)
    (rule,) = of_kind(parts, "Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == of_kind(parts, "Service")["metadata"]["name"]
    (container,) = of_kind(parts, "Deployment")["spec"]["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]} | {"GATEWAY_MASTER_KEY": "k"}
    file = tmp_path / "gateway.yaml"
    file.write_text(of_kind(parts, "ConfigMap")["data"]["gateway.yaml"])
    config = load(file, environ)
    assert len(config.engine.servers) == 3
    assert config.keyed


def test_the_values_of_the_documentation_exist() -> None:
    """What docs/deploying.md calls `a.b` is a path in values.yaml."""
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    table = re.findall(r"^\| `([\w.]+)`", (ROOT / "docs/deploying.md").read_text(), re.MULTILINE)
    assert len(table) > 5
    for path in table:
        place = known
        for key in path.split("."):
            assert key in place, path
            place = place[key]

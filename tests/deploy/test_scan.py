"""checkov, on the image and on what the chart renders."""

import json
import shutil
from pathlib import Path

from tests.deploy.chart import ROOT, TOOLS, VALUES, rendered, run

_ROOT_SHELL = """
apiVersion: v1
kind: Pod
metadata: {name: shell, namespace: search}
spec:
  containers: [{name: shell, image: "debian:13", securityContext: {privileged: true}}]
"""


def test_nothing_is_found_but_what_was_put_there(tmp_path: Path) -> None:
    for values in VALUES:
        (tmp_path / values.name).write_text(rendered(values))
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    (tmp_path / "shell.yaml").write_text(_ROOT_SHELL)

    configuration = ROOT / "deploy/checkov.yaml"
    done = run(
        TOOLS / "venv/bin/checkov",
        "--directory",
        tmp_path,
        "--config-file",
        configuration,
        "--output",
        "json",
    )

    runs = json.loads(done.stdout)
    found = [(bad["file_path"], bad["check_id"]) for each in runs for bad in each["results"]["failed_checks"]]
    assert {file for file, _ in found} == {"/shell.yaml"}
    assert ("/shell.yaml", "CKV_K8S_16") in found  # a privileged container
    assert {each["check_type"] for each in runs} == {"kubernetes", "dockerfile"}

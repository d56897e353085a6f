"""The Helm chart, with the real helm, the real Infinity's environment and the real `check`."""

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import load
from gateway.config.sections import Config
from tests.deploy.chart import (
    CHART,
    MINIMAL,
    ROOT,
    TOOLS,
    VALUES,
    Manifest,
    helm,
    manifests,
    of_kind,
    pods,
    rendered,
    run,
)

_CUSTOM = {
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
}
_CPU = CHART / "ci/cpu-values.yaml"
_MODELS = CHART / "ci/models-values.yaml"
_INFINITY = CHART / "ci/infinity-values.yaml"
_RUNBOOKS = "https://git.example.com/infinity-gateway/blob/main/"

each_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))


@each_values
def test_lints(values: Path) -> None:
    done = helm("lint", "--strict", "--quiet", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.27", "1.32", "1.37"])
def test_is_valid_strictly(version: str, tmp_path: Path) -> None:
    """Wrong types and unknown fields of Kubernetes' own kinds."""
    for values in VALUES:
        (tmp_path / values.name).write_text(rendered(values))
    files = sorted(tmp_path.glob("*.yaml"))
    done = run(TOOLS / "venv/bin/kubernetes-validate", "-k", version, "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = set(re.findall(r"find schema for kind (\w+)", done.stdout + done.stderr))
    assert unknown == _CUSTOM.keys()


def test_custom_resources_are_valid(tmp_path: Path) -> None:
    """Unknown fields by the types of their definitions, patterns and bounds by their schemas."""
    found = [part for values in VALUES for part in manifests(values) if part["kind"] in _CUSTOM]
    assert {part["kind"] for part in found} == _CUSTOM.keys()
    assert not _checked_by_node(tmp_path, found)


@pytest.mark.parametrize(("field", "value"), [("intervall", "5s"), ("interval", "five seconds")])
def test_custom_resources_with_a_slip_are_told(field: str, value: object, tmp_path: Path) -> None:
    monitor = of_kind(manifests(_INFINITY), "ServiceMonitor")
    monitor["spec"]["endpoints"][0][field] = value
    assert field in _checked_by_node(tmp_path, [monitor])


def _checked_by_node(folder: Path, parts: list[Manifest]) -> str:
    lines = [f'import {{ {kind} }} from "{module}";' for kind, module in _CUSTOM.items()]
    for part in parts:
        kind, version = part.pop("kind"), part.pop("apiVersion")
        lines.append(f"if ({kind}.apiVersion !== '{version}') throw Error({kind}.apiVersion);")
        lines.append(f"new {kind}({json.dumps(part)}).validate();")
    script = folder / "check.mjs"
    script.write_text("\n".join(lines))
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    options = ("--noEmit", "--allowJs", "--checkJs", "--strict", "--skipLibCheck", "--target", "es2022")
    modules = ("--module", "nodenext", "--moduleResolution", "nodenext")
    for command in (("node_modules/.bin/tsc", *options, *modules, script.name), ("node", script.name)):
        done = run(*command, cwd=folder)
        if done.returncode:
            return done.stdout + done.stderr
    return ""


# What the gateway gets


def _environ(parts: list[Manifest]) -> dict[str, str]:
    """The variables of the gateway's container; those of a Secret made elsewhere are made up."""
    (container,) = of_kind(parts, "Deployment")["spec"]["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    for source in container.get("envFrom", []):
        made = [
            part
            for part in parts
            if part["kind"] == "Secret" and part["metadata"]["name"] == source["secretRef"]["name"]
        ]
        environ |= made[0]["stringData"] if made else {"GATEWAY_MASTER_KEY": "made up"}
    return environ


def _mounted(parts: list[Manifest], folder: Path) -> Path:
    """Lay out what is mounted below /etc/infinity-gateway in `folder`; the configuration's path."""
    pod = of_kind(parts, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        kind, name = (
            ("ConfigMap", volume["configMap"]["name"])
            if "configMap" in volume
            else ("Secret", volume["secret"]["secretName"])
        )
        source = of_kind(parts, kind, name.removeprefix("infinity-gateway"))
        place = folder / places[volume["name"]].removeprefix("/")
        place.mkdir(parents=True)
        for file, text in (source.get("data") or source["stringData"]).items():
            (place / file).write_text(text.replace("/etc/infinity-gateway", f"{folder}/etc/infinity-gateway"))
    return folder / str(container["args"][2]).removeprefix("/")


@each_values
def test_its_configuration_passes_check(values: Path, tmp_path: Path) -> None:
    parts = manifests(values)
    ours = ("INFINITY_", "GATEWAY_", "LITELLM_")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | _environ(parts)
    config = _mounted(parts, tmp_path)
    done = run(
        "env",
        "-i",
        *(f"{k}={v}" for k, v in environ.items()),
        sys.executable,
        "-m",
        "gateway",
        "check",
        config,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    for secret in _environ(parts).keys() - {"INFINITY_API_BASE"}:
        assert _environ(parts)[secret] not in rendered(values).replace(
            f"{secret}: {_environ(parts)[secret]}", ""
        )


def _config(parts: list[Manifest], folder: Path) -> Config:
    return load(_mounted(parts, folder), _environ(parts))


@each_values
def test_there_is_time_to_drain(values: Path, tmp_path: Path) -> None:
    parts = manifests(values)
    drain = _config(parts, tmp_path).drain
    pod = of_kind(parts, "Deployment")["spec"]["template"]["spec"]
    assert drain.grace_s + drain.in_flight_s_max < pod["terminationGracePeriodSeconds"]
    readiness = pod["containers"][0]["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < drain.grace_s


@each_values
def test_what_may_wait_fits_into_memory(values: Path, tmp_path: Path) -> None:
    parts = manifests(values)
    engine = _config(parts, tmp_path).engine
    (container,) = of_kind(parts, "Deployment")["spec"]["template"]["spec"]["containers"]
    limit = container["resources"]["limits"]["memory"]
    bytes_max = int(limit[:-2]) << {"Mi": 20, "Gi": 30}[limit[-2:]]
    assert bytes_max > 100e6 + 2 * engine.admission.queued_bytes_max + engine.cache.bytes_max


def test_the_ingress_lets_through_what_the_gateway_takes(tmp_path: Path) -> None:
    parts = manifests(_MODELS)
    limits = _config(parts, tmp_path).engine.limits
    assert limits.body_bytes_max == 104857600
    notes = of_kind(parts, "Ingress")["metadata"]["annotations"]
    assert int(notes["nginx.ingress.kubernetes.io/proxy-body-size"]) > limits.body_bytes_max
    assert int(notes["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > limits.timeout_s_max
    again_s = int(notes["nginx.ingress.kubernetes.io/proxy-next-upstream-timeout"])
    assert limits.timeout_s <= again_s < int(notes["nginx.ingress.kubernetes.io/proxy-read-timeout"])
    assert notes["nginx.ingress.kubernetes.io/proxy-connect-timeout"] == "3"  # the values' own


def test_calls_for_servers_may_leave() -> None:
    def out(values: Path, *arguments: str) -> set[int]:
        policy = of_kind(manifests(values, *arguments), "NetworkPolicy")
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert out(MINIMAL) == {53, 7997}
    assert out(_MODELS) == {53, 7997, 443}
    assert out(CHART / "ci/anonymous-values.yaml", "--set", "networkPolicy.enabled=true") == {
        53,
        80,
        443,
        9000,
    }
    assert out(_INFINITY, "--set", "infinity.port=8000", "--set", "networkPolicy.serverPorts={9}") == {
        53,
        8000,
        9,
    }


# Pods


@each_values
def test_service_links_are_off(values: Path) -> None:
    assert all(pod["enableServiceLinks"] is False for pod in pods(manifests(values)))


def test_infinity_does_not_start_with_service_links() -> None:
    """What `enableServiceLinks` is off for: a Service that is called "infinity"."""
    link = "INFINITY_PORT=tcp://10.0.0.1:7997"
    done = run("env", link, ROOT / ".infinity/bin/python", "-c", "import infinity_emb.args")
    assert "INFINITY_PORT must be a number" in done.stderr


@each_values
def test_no_pod_may_more_than_it_needs(values: Path) -> None:
    for pod in pods(manifests(values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            if container["name"] == "gateway":
                assert context["readOnlyRootFilesystem"] is True
                assert pod["securityContext"]["runAsNonRoot"] is True
            assert "cpu" not in container["resources"]["limits"]
            assert ":latest" not in container["image"]


@each_values
def test_selectors_find_what_they_mean(values: Path) -> None:
    """Services, budgets, policies and monitors select pods, or Services, of this release."""
    parts = manifests(values)
    labels = [
        part["spec"]["template"]["metadata"]["labels"] for part in parts if "template" in part.get("spec", {})
    ]
    labels += [part["metadata"]["labels"] for part in parts if part["kind"] == "Service"]
    for part in parts:
        spec = part.get("spec", {})
        selector: dict[str, Any] = spec.get("podSelector", spec.get("selector", {}))
        selector = selector.get("matchLabels", selector)
        if selector:
            assert any(selector.items() <= found.items() for found in labels), part


def test_only_what_needs_a_restart_rolls() -> None:
    """Configuration and keys are read again when they change."""

    def notes(*arguments: str) -> dict[str, str]:
        template = of_kind(manifests(_MODELS, *arguments), "Deployment")["spec"]["template"]
        return dict(template["metadata"]["annotations"])

    before = notes()
    assert notes("--set", "keys.list[0].concurrency=3") == before
    assert notes("--set", "config.gateway.limits.items_max=9") == before
    telemetry, secret = (
        notes("--set", "config.gateway.telemetry=true"),
        notes("--set", "secret.values.MORE=x"),
    )
    assert [key for key in before if telemetry[key] != before[key]] == ["infinity-gateway/telemetry"]
    assert [key for key in before if secret[key] != before[key]] == ["checksum/secret"]


def test_keys_are_mounted_as_a_folder() -> None:
    """A file mounted by subPath would stay as it was at the start."""
    (container,) = of_kind(manifests(_MODELS), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert not any("subPath" in mount for mount in container["volumeMounts"])


@pytest.mark.parametrize("values", [_CPU, _INFINITY], ids=["fixed", "scaled"])
def test_each_infinity_is_found_however_many_there_are(values: Path, tmp_path: Path) -> None:
    """The gateway looks up the name of a Service that has an address for each pod, and names none itself."""
    parts = manifests(values, "--set", "infinity.port=8000,config.gateway.discovery.refresh_s=3")
    service, workload = of_kind(parts, "Service", "-infinity"), of_kind(parts, "StatefulSet", "-infinity")
    (name,) = (discovery := _config(parts, tmp_path).engine.discovery).names
    (port,) = workload["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert (name.host, name.port) == (service["metadata"]["name"], port["containerPort"])
    assert discovery.refresh_s == 3
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert "INFINITY_API_BASE" not in _environ(parts)


def test_how_many_there_are_rolls_no_gateway() -> None:
    few, many = (
        of_kind(manifests(_CPU, "--set", f"infinity.replicas={count}"), "Deployment") for count in (2, 9)
    )
    assert few == many


def test_servers_named_stand_beside_those_found() -> None:
    environ = _environ(manifests(_CPU, "--set", "servers={http://a:1,http://b:2}"))
    assert environ["INFINITY_API_BASE"] == "http://a:1,http://b:2"


def test_what_is_scaled_has_no_fixed_number() -> None:
    deployment, scaled = of_kind(manifests(_MODELS), "Deployment"), manifests(_INFINITY)
    assert "replicas" not in deployment["spec"]
    target = of_kind(scaled, "ScaledObject", "-infinity")["spec"]["scaleTargetRef"]["name"]
    assert "replicas" not in of_kind(scaled, "StatefulSet", target.removeprefix("infinity-gateway"))["spec"]


def test_a_digest_wins_over_the_tag() -> None:
    def images(*arguments: str) -> list[str]:
        return [
            container["image"] for pod in pods(manifests(_CPU, *arguments)) for container in pod["containers"]
        ]

    digest = f"sha256:{'a1' * 32}"
    pinned = f"image.repository=r.example.com/gateway,image.tag=1.0.0,image.digest={digest}"
    theirs = f"infinity.image=michaelf34/infinity@{digest}"
    assert set(images("--set", pinned, "--set", theirs)) == {
        f"r.example.com/gateway@{digest}",
        f"michaelf34/infinity@{digest}",
    }
    assert "infinity-gateway:1.0.0" in images("--set", "image.tag=1.0.0")


def test_keda_asks_what_prometheus_understands(tmp_path: Path) -> None:
    (trigger,) = of_kind(manifests(_INFINITY), "ScaledObject", "-infinity")["spec"]["triggers"]
    group = {"name": "keda", "rules": [{"record": "busy", "expr": trigger["metadata"]["query"]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}))
    done = run(ROOT / ".cache/prometheus/bin/promtool", "check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stderr
    assert '"deployment_busy_ratio"' in (ROOT / "gateway/observability/metrics.py").read_text()


def test_monitoring_is_that_of_the_folder() -> None:
    parts, folder = manifests(_MODELS), ROOT / "deploy/monitoring"
    groups = [
        group
        for name in ("rules.yml", "alerts.yml")
        for group in yaml.safe_load((folder / name).read_text())["groups"]
    ]
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:  # the values say where the runbooks are
                rule["annotations"]["runbook_url"] = f"{_RUNBOOKS}{rule['annotations']['runbook_url']}"
    assert of_kind(parts, "PrometheusRule")["spec"]["groups"] == groups
    (dashboard,) = of_kind(parts, "ConfigMap", "-dashboard")["data"].values()
    assert json.loads(dashboard) == json.loads((folder / "dashboard.json").read_text())


# Values that cannot be meant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to serve"),
        (("--set", "servers={http://a:1}"), "anybody could call"),
        (("--set", "servers={a:1}"), "servers"),
        (("--set", "servers={http://a:1},keys.existing=k,ingress.enabled=true"), "ingress.host"),
        (("--set", "servers={http://a:1},keys.existing=k,keda.enabled=true"), "keda.target.name"),
        (("--values", str(_MODELS), "--set", "servers={http://a:1}"), "give one of them"),
        (("--values", str(_CPU), "--set", "config.gateway.discovery.dns=a:1"), "give one of them"),
        (("--values", str(MINIMAL), "--set", "image.digest=sha256:9f86"), "digest"),
        (("--values", str(MINIMAL), "--set", "replica=3"), "replica"),
        (("--values", str(MINIMAL), "--set", "replicas=0"), "replicas"),
        (("--values", str(MINIMAL), "--set", "prometheusRule.runbooks=https://a/b"), "runbooks"),
        (("--values", str(MINIMAL), "--set", "config.gateway.drain.grace_s=soon"), "grace_s"),
    ],
)  # fmt: skip
def test_wrong_values_are_told(arguments: tuple[str, ...], message: str) -> None:
    done = helm("template", "infinity-gateway", CHART, *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_notes_are_for_what_was_installed() -> None:
    done = helm("install", "infinity-gateway", CHART, "--values", _MODELS, "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "https://embeddings.example.com/v1" in notes
    assert "not-a-real" not in notes


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert math.prod(
        f'version = "{chart[key]}"' in (ROOT / "pyproject.toml").read_text()
        for key in ("version", "appVersion")
    )

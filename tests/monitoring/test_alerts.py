"""Every alert fires when it should, not before, not for what is merely near, and clears; by real promtool."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.monitoring.processes import MONITORING, ROOT, promtool, run, tool

OPERATING = ROOT / "docs" / "operating.md"
ASKED = ("**Means**", "**Callers notice**", "**Look at**", "**Do**")

Series = Mapping[str, str]
"""Name with labels → a value for each minute, in promtool's notation."""


def counter(*steps: tuple[int, float]) -> str:
    """Steps of a case, which are minutes unless it says otherwise, and how much in each."""
    values, value = [], 0.0
    for minutes, rate in steps:
        for _ in range(minutes):
            values.append(value)
            value += rate
    return " ".join(f"{value:g}" if value < 1e6 else f"{value:.0f}" for value in values)


def gauge(*steps: tuple[int, float | str]) -> str:
    """Minutes, and the value: a number, `_` for no sample yet, `stale` for none any more."""
    return " ".join(str(value) for minutes, value in steps for _ in range(minutes))


def of(metric: str, **labels: str) -> str:
    """A series of one gateway."""
    named = {"job": "g", "instance": "a", **labels}
    return f"{metric}{{{','.join(f'{key}={json.dumps(value)}' for key, value in named.items())}}}"


def requests(*failed: tuple[int, float]) -> Series:
    """600 good calls a minute, and these that fail."""
    name = "infinity_gateway_requests_total"
    minutes = sum(minutes for minutes, _ in failed)
    return {
        of(name, model="m", status="200"): counter((minutes, 600)),
        of(name, model="m", status="503"): counter(*failed),
        of(name, model="m", status="499"): counter((minutes, 6000)),
    }


def durations(*in_time: tuple[int, float]) -> Series:
    """600 calls a minute, of which these take at most a second."""
    name = "infinity_gateway_request_duration_seconds"
    return {
        of(f"{name}_bucket", model="m", le="1.0"): counter(*in_time),
        of(f"{name}_count", model="m"): counter((sum(minutes for minutes, _ in in_time), 600)),
    }


def server(metric: str, *steps: tuple[int, float | str], name: str = "s", **labels: str) -> Series:
    return {of(f"infinity_gateway_{metric}", model="m", deployment=name, **labels): gauge(*steps)}


def batches(fill: tuple[float, float], in_flight: int, busy: float = 1) -> Series:
    """Ten batches a minute: first so full, after 70 minutes so."""
    histogram = "infinity_gateway_batch_fill_ratio"
    labels = {"model": "m", "deployment": "s"}
    return {
        of(f"{histogram}_sum", **labels): counter((70, 10 * fill[0]), (40, 10 * fill[1])),
        of(f"{histogram}_count", **labels): counter((110, 10)),
        of("infinity_gateway_in_flight_requests", model="m"): gauge((110, in_flight)),
        **server("deployment_busy_ratio", (110, busy)),
    }


def waiting(items: float) -> Series:
    """So many items for ten minutes, of which 10 a second are answered."""
    return {
        of("infinity_gateway_queued_items", model="m", **{"class": "bulk"}): gauge(
            (10, 0), (10, items), (9, 0)
        ),
        of("infinity_gateway_items_total", model="m"): counter((30, 600)),
    }


def refused(reason: str) -> Series:
    return {
        of("infinity_gateway_rejected_total", reason=reason): counter((10, 0), (20, 60), (10, 0)),
        of("infinity_gateway_requests_total", model="m", status="200"): counter((40, 600)),
    }


def lags(bound: str) -> Series:
    """600 a minute; for a quarter of an hour all of them lie below this bound and above 0.01 s."""
    name = "infinity_gateway_event_loop_lag_seconds_bucket"
    bounds = ("0.01", "0.05", "0.1", "0.25", "+Inf")
    late = {le: counter((10, 600), (15, 600 * (float(le) >= float(bound))), (15, 600)) for le in bounds}
    return {of(name, le=le): values for le, values in late.items()}


_GROUPS = [
    "infinity-gateway-errors",
    "infinity-gateway-slow",
    "infinity-gateway-batches",
    "infinity-gateway-objectives",
    "infinity-gateway-servers",
    "infinity-gateway-load",
    "infinity-gateway-process",
]
"""Rules before the alerts that read them: promtool evaluates groups in any order otherwise."""


class Case(NamedTuple):
    """The minutes at which it is quiet, fires and is quiet again; and what is near, but another matter."""

    series: Series
    quiet: int
    fires: int
    clears: int
    near: Series
    step: int = 1
    """Minutes from one value of a series to the next."""


UP_AND_DOWN: tuple[tuple[int, float | str], ...] = ((10, 1), (10, 0), (10, 1))
BUILD = of("infinity_gateway_build_info", version="1")
PRESENT = {BUILD: gauge((10, 1), (10, "stale"), (10, 1))}
DOWN = server("deployment_up", *UP_AND_DOWN)

CASES = {
    "InfinityErrorBudgetBurnsFast": Case(
        requests((60, 0), (60, 60), (90, 0)), 60, 115, 170, near=requests((60, 0), (150, 3))
    ),
    "InfinityErrorBudgetBurnsSlowly": Case(
        requests((3, 0), (77, 3), (21, 0)), 60, 1500, 1980, near=requests((101, 0.3)), step=20
    ),
    "InfinityLatencyBudgetBurnsFast": Case(
        durations((60, 600), (60, 450), (90, 600)), 60, 115, 170, near=durations((60, 600), (150, 555))
    ),
    "InfinityLatencyBudgetBurnsSlowly": Case(
        durations((3, 600), (77, 570), (21, 600)), 60, 1500, 1980, near=durations((101, 597)), step=20
    ),
    "InfinityModelDown": Case(
        DOWN, 9, 15, 25, near={**DOWN, **server("deployment_up", (30, 1), name="other")}
    ),
    "InfinityServerDown": Case(
        DOWN, 11, 15, 25, near={**DOWN, **server("deployment_different_vectors", (10, 0), (10, 1), (10, 0))}
    ),
    "InfinityWorkerDead": Case(
        {**DOWN, **server("upstream_requests_total", (10, "_"), (20, 1), outcome="hung")},
        9,
        15,
        25,
        near={**DOWN, **server("upstream_requests_total", (10, "_"), (20, 1), outcome="refused")},
    ),
    "InfinityServerVectorsDiffer": Case(
        server("deployment_different_vectors", (10, 0), (10, 1), (10, 0)), 10, 15, 25, near=DOWN
    ),
    "InfinityServerAnswersBadly": Case(
        server("upstream_bad_answers_total", (30, "_"), (40, 1), reason="count"),
        29,
        35,
        60,
        near=server("upstream_bad_answers_total", (70, 1), reason="count"),
    ),
    "InfinityQueueLong": Case(waiting(100), 13, 17, 25, near=waiting(40)),
    "InfinityServersBusy": Case(
        server("deployment_busy_ratio", (10, 0), (50, 1), (20, 0)),
        30,
        50,
        70,
        near=server("deployment_busy_ratio", (70, 0.85)),
    ),
    "InfinityCallsRefused": Case(refused("overloaded"), 13, 20, 38, near=refused("rate_limited")),
    "InfinityBatchesThin": Case(batches((0.1, 0.9), 32), 25, 65, 90, near=batches((0.1, 0.9), 4)),
    "InfinityGatewayAbsent": Case(
        PRESENT, 9, 15, 25, near={**PRESENT, BUILD.replace('"a"', '"b"'): gauge((30, 1))}
    ),
    "InfinityGatewayDown": Case(
        {**PRESENT, of("up"): gauge(*UP_AND_DOWN)}, 9, 15, 25, near={of("up"): gauge(*UP_AND_DOWN)}
    ),
    "InfinityGatewayReloadFailed": Case(
        {of("infinity_gateway_config_reload_success"): gauge(*UP_AND_DOWN)},
        9,
        15,
        25,
        near={of("infinity_gateway_config_reload_success"): gauge((30, 1))},
    ),
    "InfinityGatewayStalls": Case(lags("0.25"), 12, 22, 38, near=lags("0.05")),
}


def alerts() -> dict[str, Any]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def firing(alert: str, minute: int, count: int) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": count}] if count else []
    expr = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": samples}


def unit_test(series: Series, step: int, *expected: dict[str, Any]) -> dict[str, Any]:
    return {
        "interval": f"{step}m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": list(expected),
    }


def test_prometheus_takes_the_files() -> None:
    """Rules, alerts and the configuration that loads them."""
    checked = promtool("check", "config", "--lint-fatal", str(MONITORING / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == 4, checked.stdout
    routed = run(tool("amtool"), "check-config", str(MONITORING / "alertmanager.yml"))
    assert routed.returncode == 0, routed.stdout + routed.stderr


def test_alertmanager_names_alerts_that_there_are() -> None:
    alerts = (MONITORING / "alerts.yml").read_text()
    for name in re.findall(r"alertname = (\w+)", (MONITORING / "alertmanager.yml").read_text()):
        assert f"alert: {name}\n" in alerts


@pytest.mark.parametrize("alert", CASES)
def test_it_fires_and_clears(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    content = {
        "rule_files": [str(MONITORING / "rules.yml"), str(MONITORING / "alerts.yml")],
        "group_eval_order": _GROUPS,
        "evaluation_interval": f"{case.step}m",
        "tests": [
            unit_test(
                case.series,
                case.step,
                firing(alert, case.quiet, 0),
                firing(alert, case.fires, 1),
                firing(alert, case.clears, 0),
            ),
            unit_test(
                case.near, case.step, *(firing(alert, m, 0) for m in (case.quiet, case.fires, case.clears))
            ),
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(content))
    tested = promtool("test", "rules", str(file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested() -> None:
    assert list(CASES) == list(alerts())


@pytest.mark.parametrize("alert", CASES)
def test_it_says_what_and_where_to_read_on(alert: str) -> None:
    """Severity, a description with the figure, and a section of the runbook that answers what one asks."""
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in annotations["description"]
    assert annotations["runbook_url"] == f"docs/operating.md#{alert.lower()}"
    section = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", OPERATING.read_text(), re.MULTILINE | re.DOTALL)
    assert section
    assert [word for word in ASKED if word not in section[1]] == []

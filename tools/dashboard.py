"""The Grafana dashboard, deploy/monitoring/dashboard.json.

    python tools/dashboard.py

It needs no rule of ours: every expression is of the gateway's own metrics.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[1] / "deploy" / "monitoring" / "dashboard.json"

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 8
_TYPES = {"state": "state-timeline", "table": "table", "stat": "stat"}

_MODEL = 'model=~"$model"'
_SERVER = f'{_MODEL},deployment=~"$deployment"'
_SERVERS = "by (model, deployment)"
_RATE = "$__rate_interval"


class Panel(NamedTuple):
    title: str
    text: str
    """What it shows, for whoever points at its title."""
    unit: str
    """One of Grafana's: `s`, `reqps`, `percentunit`, …"""
    queries: dict[str, str]
    """Legend → PromQL."""
    most: float | None = None
    """The axis ends there."""
    stacked: bool = False
    kind: str = "timeseries"


def _rate(metric: str, by: str = "", labels: str = "") -> str:
    total = f"sum {by}" if by else "sum"
    return f"{total} (rate(infinity_gateway_{metric}{{{labels}}}[{_RATE}]))"


def _now(by: str, gauge: str, labels: str) -> str:
    return f"{by} (infinity_gateway_{gauge}{{{labels}}})"


def _share(labels: str, of: str, counter: str, whole: str = "") -> str:
    """Of each model."""
    part = _rate(counter, "by (model)", f"{_MODEL},{labels}")
    return f"{part} / {_rate(whole or counter, 'by (model)', f'{_MODEL}{of}')}"


def _mean(histogram: str, by: str, labels: str) -> str:
    return f"{_rate(f'{histogram}_sum', by, labels)} / {_rate(f'{histogram}_count', by, labels)}"


def _quantile(quantile: float, histogram: str, by: str, labels: str = "") -> str:
    buckets = _rate(f"{histogram}_bucket", f"by ({', '.join(filter(None, [by, 'le']))})", labels)
    return f"histogram_quantile({quantile}, {buckets})"


def _quantiles(histogram: str, labels: str = "", by: str = "", legend: str = "") -> dict[str, str]:
    return {f"{legend}p{q:g}": _quantile(q / 100, histogram, by, labels) for q in (50, 95, 99)}


ROWS: dict[str, list[Panel]] = {
    "Traffic": [
        Panel(
            "Calls",
            "Calls answered, by route.",
            "reqps",
            {"{{route}}": _rate("requests_total", "by (route)", _MODEL)},
            stacked=True,
        ),
        Panel(
            "Items",
            "Texts, or pairs of query and document, that were answered.",
            "cps",
            {"{{model}}": _rate("items_total", "by (model)", _MODEL)},
            stacked=True,
        ),
        Panel(
            "Tokens",
            "What callers were charged, in the servers' own measure: tokens or characters.",
            "cps",
            {"{{model}}": _rate("tokens_total", "by (model)", _MODEL)},
        ),
        Panel(
            "Statuses",
            "Calls by status; 499 is a caller who hung up.",
            "reqps",
            {"{{status}}": _rate("requests_total", "by (status)", _MODEL)},
        ),
        Panel(
            "Items in a call",
            "How many items callers send at once.",
            "short",
            _quantiles("request_items", _MODEL),
        ),
        Panel(
            "Calls under way",
            "Calls that wait or are under way.",
            "short",
            {"{{model}}": _now("sum by (model)", "in_flight_requests", _MODEL)},
        ),
    ],
    "Latency": [
        Panel(
            "Latency of calls",
            "From a call's arrival to its answer.",
            "s",
            _quantiles("request_duration_seconds", _MODEL),
        ),
        Panel(
            "Wait for a server",
            "Until the last item of a call left for a server, by class.",
            "s",
            _quantiles("queue_wait_seconds", _MODEL, "class", "{{class}} "),
        ),
        Panel(
            "Servers' time for a batch",
            "From sending a batch to its answer: 95th percentile.",
            "s",
            {"{{deployment}}": _quantile(0.95, "upstream_duration_seconds", "deployment", _SERVER)},
        ),
        Panel(
            "The gateway's own time",
            "Time of a call that was neither wait nor a server's. It rises when the gateway lacks CPU.",
            "s",
            _quantiles("overhead_seconds"),
        ),
        Panel(
            "Within a second",
            "Share of calls answered within a second; the objective is 99 %.",
            "percentunit",
            {
                "{{model}}": _share(
                    'le="1.0"', "", "request_duration_seconds_bucket", "request_duration_seconds_count"
                )
            },
            most=1,
        ),
        Panel(
            "Event loop lag",
            "How late the event loop of each gateway is. Every call waits for that.",
            "s",
            {
                "{{instance}} p99": f"histogram_quantile(0.99, "
                f"sum by (instance, le) (rate(infinity_gateway_event_loop_lag_seconds_bucket[{_RATE}])))"
            },
        ),
    ],
    "Batching": [
        Panel(
            "Items in a batch",
            "The mean. Fuller batches use a server better, up to its batch size.",
            "short",
            {"{{deployment}}": _mean("batch_items", _SERVERS, _SERVER)},
        ),
        Panel(
            "Callers in a batch",
            "The mean. 1: there is nobody to share a batch with.",
            "short",
            {"{{deployment}}": _mean("batch_calls", _SERVERS, _SERVER)},
        ),
        Panel(
            "Fill",
            "Items of a batch as a share of the most that fit.",
            "percentunit",
            {"{{deployment}}": _mean("batch_fill_ratio", _SERVERS, _SERVER)},
            most=1,
        ),
        Panel(
            "Padding",
            "Share of a batch that is padding up to its longest item: work for nothing.",
            "percentunit",
            {"{{deployment}}": _mean("batch_padding_ratio", _SERVERS, _SERVER)},
            most=1,
        ),
    ],
    "Servers": [
        Panel(
            "State",
            "1 while the server gets work from at least one gateway.",
            "short",
            {"{{deployment}}": _now("max by (model, deployment)", "deployment_up", _SERVER)},
            kind="state",
        ),
        Panel(
            "Items a second",
            "Items in the batches that each server got. Faster servers get more.",
            "cps",
            {"{{deployment}}": _rate("batch_items_sum", _SERVERS, _SERVER)},
            stacked=True,
        ),
        Panel(
            "Speed",
            "Items of a batch over the time that the server took for it: median.",
            "cps",
            {"{{deployment}}": _quantile(0.5, "upstream_throughput_items_per_second", "deployment", _SERVER)},
        ),
        Panel(
            "Items under way",
            "Items that the servers have at this moment.",
            "short",
            {"{{deployment}}": _now("sum by (model, deployment)", "deployment_in_flight_items", _SERVER)},
        ),
        Panel(
            "Busy",
            "Share of the last seconds in which the server had work: the busiest view of all gateways.",
            "percentunit",
            {"{{deployment}}": _now("max by (model, deployment)", "deployment_busy_ratio", _SERVER)},
            most=1,
        ),
        Panel(
            "Limit",
            "Most batches under way at once, as learned or configured: the sum over all gateways.",
            "short",
            {"{{deployment}}": _now("sum by (model, deployment)", "deployment_concurrency_limit", _SERVER)},
        ),
        Panel(
            "Fitted times",
            "What was learned of each server: a batch of n items takes l + (o + a n + b n longest).",
            "s",
            {
                "{{deployment}} {{parameter}}": _now(
                    "max by (model, deployment, parameter)", "deployment_service_seconds", _SERVER
                )
            },
            kind="table",
        ),
        Panel(
            "Other vectors",
            "1 while a server gets no work because its vectors are not those of its pool.",
            "short",
            {"{{deployment}}": _now("max by (model, deployment)", "deployment_different_vectors", _SERVER)},
            kind="state",
        ),
    ],
    "Saturation": [
        Panel(
            "Items that wait",
            "Items that no server has room for yet, by class.",
            "short",
            {
                "{{model}} {{class}}": _now("sum by (model, class)", "queued_items", _MODEL),
            },
            stacked=True,
        ),
        Panel(
            "Work that waits",
            "How long the servers take for what waits, at the rate at which they answer now.",
            "s",
            {
                "{{model}}": _now("sum by (model)", "queued_items", _MODEL)
                + f" / ({_rate('items_total', 'by (model)', _MODEL)} > 0)"
            },
        ),
        Panel(
            "Refused calls",
            "By reason; `overloaded` when they could not have been answered in time.",
            "reqps",
            {"{{reason}}": _rate("rejected_total", "by (reason)")},
            stacked=True,
        ),
    ],
    "Errors": [
        Panel(
            "Failed calls",
            "Share of calls that got a 5xx; the objective is 0.1 %.",
            "percentunit",
            {"{{model}}": _share('status=~"5.."', ',status!="499"', "requests_total")},
        ),
        Panel(
            "Failed batches",
            "By server and what happened; most are answered by another server.",
            "reqps",
            {
                "{{deployment}} {{outcome}}": _rate(
                    "upstream_requests_total", "by (deployment, outcome)", _SERVER + ',outcome!="success"'
                )
            },
        ),
        Panel(
            "Retries, hedges, fallbacks",
            "Batches tried again, late ones sent to a second server, calls handed to another model.",
            "reqps",
            {
                "retried: {{reason}}": _rate("retries_total", "by (reason)"),
                "hedge {{outcome}}": _rate("hedges_total", "by (outcome)"),
                "fallback": f"sum(rate(infinity_gateway_fallbacks_total[{_RATE}]))",
            },
        ),
        Panel(
            "Breaker",
            "`open`: no work for it. `half_open`: it has to prove itself.",
            "short",
            {
                "{{deployment}} {{state}}": _now(
                    "max by (deployment, state)", "breaker_state", _SERVER + ',state!="closed"'
                )
            },
            kind="state",
        ),
        Panel(
            "Bad answers",
            "Answers that did not fit their batch. None is used.",
            "reqps",
            {
                "{{deployment}} {{reason}}": _rate(
                    "upstream_bad_answers_total", "by (deployment, reason)", _SERVER
                )
            },
        ),
    ],
    "Saved work": [
        Panel(
            "Asked already",
            "Items that somebody else waited for already, or that the cache had.",
            "cps",
            {
                "deduplicated": f"sum(rate(infinity_gateway_deduplicated_items_total[{_RATE}]))",
                "cache {{result}}": _rate("cache_items_total", "by (result)"),
            },
        ),
        Panel(
            "Cache hits",
            "Share of the items looked up in the cache that it had.",
            "percentunit",
            {"hits": _rate("cache_items_total", "", 'result="hit"') + " / " + _rate("cache_items_total", "")},
            most=1,
        ),
        Panel(
            "Gateways",
            "Processes by version.",
            "short",
            {"{{version}}": "count by (version) (infinity_gateway_build_info)"},
            kind="stat",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    return {
        "uid": "infinity-gateway",
        "title": "Infinity gateway",
        "description": "Traffic, batches and servers of infinity-gateway.",
        "tags": ["infinity-gateway"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,  # One cross hair for all panels.
        "templating": {"list": [*_variables()]},
        "panels": [*_placed(ROWS.items())],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}
    for name, query in (
        ("model", "label_values(infinity_gateway_in_flight_requests, model)"),
        ("deployment", 'label_values(infinity_gateway_deployment_up{model=~"$model"}, deployment)'),
    ):
        yield {
            "type": "query",
            "name": name,
            "label": name.capitalize(),
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # When the time range changes: servers come and go.
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _placed(rows: Iterable[tuple[str, list[Panel]]]) -> Iterator[dict[str, Any]]:
    """Left to right, each row below the one before."""
    number, top = 1, 0
    for title, panels in rows:
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {
            "type": "row",
            "id": number,
            "title": title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        number, top = number + 1, top + 1
        for i, panel in enumerate(panels):
            down, across = divmod(i * _WIDTH, _COLUMNS)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": across, "y": top + down * _HEIGHT}
            yield {"id": number, "gridPos": place, **_drawn(panel)}
            number += 1
        top += -(-len(panels) * _WIDTH // _COLUMNS) * _HEIGHT


def _drawn(panel: Panel) -> dict[str, Any]:
    at_once = panel.kind in ("table", "stat")
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": stacking,
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": _TYPES.get(panel.kind, panel.kind),
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
                "instant": at_once,
                "range": not at_once,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for i, (legend, expr) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        # One row a server, one column a parameter.
        **(
            {
                "transformations": [
                    {
                        "id": "groupingToMatrix",
                        "options": {
                            "rowField": "deployment",
                            "columnField": "parameter",
                            "valueField": "Value",
                        },
                    }
                ]
            }
            if panel.kind == "table"
            else {}
        ),
    }


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())

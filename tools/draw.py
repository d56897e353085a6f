"""The pictures of docs/, from what tools/how_it_works.py and tests/docs/dashboard.py have written.

.peers/bin/python -m tools.draw
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.report import INK, pyplot, save

IMAGES = Path(__file__).parents[1] / "docs" / "images"

_OURS, _OTHER, _BAD = "#e8590c", "#2f80ed", "#d6336c"
_COLOURS = ("#e8590c", "#2f80ed", "#2f9e44", "#a855f7", "#d6a100", "#d6336c")
_WIDTH_IN = 8.4

Batches = Sequence[Sequence[int]]


def padding(by_arrival: Batches, by_cut: Batches, path: Path) -> None:
    """A bar for each text, as long as it is, on what its batch is padded to."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(_WIDTH_IN, 3.0), sharey=True, layout="constrained")
    for panel, name, batches in zip(panels, ("in order of arrival", "cut by length"), (by_arrival, by_cut),
                                    strict=True):  # fmt: skip
        at = 0
        for batch in batches:
            where = range(at, at + len(batch))
            panel.bar(where, [max(batch)] * len(batch), width=1.0, color=INK, alpha=0.3, linewidth=0)
            panel.bar(where, batch, width=1.0, color=_OURS, linewidth=0)
            at += len(batch) + 2
        padded = sum(len(batch) * max(batch) for batch in batches)
        texts = sum(map(sum, batches))
        panel.set_title(
            f"{name}: {len(batches)} batches, {padded:,} tokens,\n{1 - texts / padded:.0%} of them padding",
            fontsize=9,
        )
        panel.set_xticks([])
        panel.set_xlabel(f"{sum(map(len, batches))} texts, batch by batch")
    panels[0].set_ylabel("tokens")
    save(figure, path)


def leaving(run: Mapping[str, Any], path: Path) -> None:
    """Arrivals, what waits, what leaves, and what the server does, on one axis of time."""
    plt = pyplot()
    [server] = run["servers"]
    figure, (calls, waiting, work) = plt.subplots(
        3, 1, figsize=(_WIDTH_IN, 3.6), sharex=True, layout="constrained",
        gridspec_kw={"height_ratios": (0.5, 1.2, 1.4)},
    )  # fmt: skip
    calls.vlines([1e3 * at for at in run["arrived"]], 0, 1, color=INK, linewidth=0.7)
    calls.set_ylabel("calls\ncome", rotation=0, ha="right", va="center")
    steps = sorted([(at, 1) for at in run["arrived"]] + [(at, -items) for at, items in server["sent"]])
    waiting.step(
        [0.0, *(1e3 * at for at, _ in steps)],
        list(accumulate((change for _, change in steps), initial=run["waiting"])),
        where="post", color=_OTHER, linewidth=1.2,
    )  # fmt: skip
    waiting.set_ylabel("texts\nwait", rotation=0, ha="right", va="center")
    _bars(work, server, 0.0)
    work.set_ylim(-0.6, 1.5)
    work.set_yticks([0, 1], ["the server\nworks", "a batch\nleaves"])
    work.plot([1e3 * at for at, _ in server["sent"]], [0.75] * len(server["sent"]), "v", color=_OURS,
              markersize=4)  # fmt: skip
    for at, items in server["sent"]:
        work.text(1e3 * at, 1.0, items, ha="center", va="bottom", fontsize=7)
    work.set_xlim(0, 1e3 * run["shown_s"])
    work.set_xlabel("milliseconds, simulated")
    for panel in (calls, work):
        panel.spines[["left"]].set_visible(False)
    calls.set_yticks([])
    save(figure, path)


def balancing(run: Mapping[str, Any], path: Path) -> None:
    """A row for each server, with the sizes of its batches and when it was dead."""
    plt = pyplot()
    figure, panel = plt.subplots(figsize=(_WIDTH_IN, 2.4), layout="constrained")
    servers = run["servers"]
    most = max(server["speed"] for server in servers)
    for row, server in enumerate(servers):
        _bars(panel, server, float(-row))
        for start, end in server["down"]:
            panel.broken_barh(
                [(1e3 * start, 1e3 * (end - start))], (-row - 0.32, 0.64), color=_BAD, alpha=0.25
            )
            panel.text(500 * (start + end), -row, "dead", ha="center", va="center", color=_BAD, fontsize=8)
    names = [
        f"server {row}" + (f",\n{most / server['speed']:.0f} × slower" if server["speed"] < most else "")
        for row, server in enumerate(servers)
    ]
    panel.set_yticks([-row for row in range(len(servers))], names)
    panel.set_xlim(0, 1e3 * run["shown_s"])
    panel.set_xlabel("milliseconds, simulated")
    panel.spines[["left"]].set_visible(False)
    save(figure, path)


def _bars(panel: Any, server: Mapping[str, Any], y: float) -> None:
    for index, (start, end, items) in enumerate(server["work"]):
        panel.broken_barh(
            [(1e3 * start, 1e3 * (end - start))],
            (y - 0.32, 0.64),
            color=(_OURS, _OTHER)[index % 2],
            linewidth=0,
        )
        if end - start > 0.02:
            middle = 500 * (max(0, start) + end)
            panel.text(middle, y, f"{items:g}", ha="center", va="center", fontsize=7, color="white")


def dashboard(seen: Mapping[str, Any], path: Path) -> None:
    """A panel for each of the dashboard's, with a line for each series."""
    plt = pyplot()
    rows = math.ceil(len(seen["panels"]) / 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(_WIDTH_IN, 2.1 * rows), sharex=True, layout="constrained", squeeze=False
    )
    # The same server has the same colour everywhere.
    colours = {name: _COLOURS[index] for index, name in enumerate(seen["servers"])}
    for panel, said in zip(axes.flat, seen["panels"], strict=False):
        others = iter(_COLOURS[::-1])
        is_state = said["type"] == "state-timeline"
        for row, series in enumerate(said["series"]):
            name = series["name"]
            colour = colours.get(name) or next(others)
            points = [(at, math.nan if value is None else value) for at, value in series["values"]]
            if is_state:
                up = [(at, seen["step_s"]) for at, value in points if value == 1]
                panel.broken_barh(up, (-row - 0.3, 0.6), color=colour, linewidth=0)
            else:
                panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=name)
        for at, what in seen["events"]:
            panel.axvline(at, color=INK, linestyle=":", linewidth=1)
            if panel is axes[0][0]:
                panel.annotate(what, (at, 0.05), xycoords=("data", "axes fraction"), fontsize=7, rotation=0,
                               ha="left", va="bottom", xytext=(2, 0), textcoords="offset points")  # fmt: skip
        unit = f", {said['unit']}" if said["unit"] and said["unit"] not in said["title"] else ""
        panel.set_title(f"{said['title']}{unit}", fontsize=9)
        panel.set_xlim(0, seen["seconds"])
        panel.grid()
        if is_state:
            panel.set_yticks(
                [-row for row in range(len(said["series"]))], [each["name"] for each in said["series"]]
            )
            continue
        panel.set_ylim(bottom=0)
        if len(said["series"]) > 1:
            panel.legend(frameon=False, labelcolor=INK, fontsize=7, ncols=3, loc="best", handlelength=1.2)
    for panel in axes[-1]:
        panel.set_xlabel("seconds")
    save(figure, path)


def main() -> int:
    how = json.loads((IMAGES / "how-it-works.json").read_text())
    padding(how["arrival"], how["cut"], IMAGES / "padding.svg")
    leaving(how["leaving"], IMAGES / "leaving.svg")
    balancing(how["balancing"], IMAGES / "balancing.svg")
    dashboard(json.loads((IMAGES / "dashboard.json").read_text()), IMAGES / "dashboard.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())

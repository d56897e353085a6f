"""Tables and plots of the committed runs: what stands between the markers of the READMEs, and `runs/*.svg`.

    .peers/bin/python -m benchmarks.report

`<!-- figures:NAME -->` and `<!-- /figures -->` enclose the table of `runs/NAME.json`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, RUNS

Record = Mapping[str, Any]

READMES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
_MARKED = re.compile(r"(<!-- figures:([\w.-]+) -->\n)(?:(?!<!-- figures:).)*?(<!-- /figures -->)", re.DOTALL)
_NAMES = {"nginx": "nginx", "haproxy": "HAProxy", "litellm": "LiteLLM", "hand": "batches by hand"}
_MODELS = {
    "tiny": "a random BERT (one layer, 384 wide)",
    "minilm": "all-MiniLM-L6-v2 (six layers)",
}
_TEXTS = {"short": "Short questions", "mixed": "Long-tailed lengths"}
# Rows past which a table beside others is too much detail.
_DETAILS_MAX = 24
# Mid-tones, which show on white and on black; markers too, for those who do not see the colours.
INK = "#767c85"
_LOOKS = {
    "gateway": ("#e8590c", "o"),
    "direct": (INK, "s"),
    "nginx": ("#2f9e44", "^"),
    "haproxy": ("#2f80ed", "D"),
    "litellm": ("#a855f7", "v"),
}
# By benchmark: what stands on the x axis, and what on the y axes of the two panels.
_PLOTS = {
    "upstream_bound": (("connections", "connections"), ("rate", "texts/s"), ("p99_ms", "p99, ms")),
    "arrivals": (("rate", "calls/s asked for"), ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")),
}


def table(record: Record) -> str:
    """A run as Markdown: its tables, and what was measured where."""
    rows = record["rows"]
    tables = [_against_best(rows)] if record["benchmark"] == "upstream_bound" else _plain(rows)
    parts = [
        "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---:"] * len(head), *body))
        for head, *body in tables
    ]
    return "\n\n".join([*parts, _caption(record)]) + "\n"


def fill(text: str, tables: Mapping[str, str]) -> str:
    """`text` with each table between its markers; what has no table, or no markers, stays as it is."""
    return _MARKED.sub(
        lambda found: f"{found[1]}{tables[found[2]]}{found[3]}" if found[2] in tables else found[0], text
    )


def _against_best(rows: Sequence[Record]) -> list[list[str]]:
    """A line for each number of connections: direct, the best peer, and the gateway against the best."""
    lines = [["connections", "direct, texts/s", "best peer", "gateway", "ratio", "direct, p99", "best peer",
              "gateway", "ratio"]]  # fmt: skip
    for count in dict.fromkeys(row["connections"] for row in rows if row["target"] == "gateway"):
        here = {row["target"]: row for row in rows if row["connections"] == count}
        ours, direct = here["gateway"], here.get("direct")
        peers = [row for target, row in here.items() if target in ("nginx", "haproxy", "litellm")]
        fastest = max(peers, key=lambda row: float(row["rate"]), default=None)
        quickest = min(peers, key=lambda row: float(row["p99_ms"]), default=None)
        lines.append([
            str(count),
            number(direct["rate"]) if direct else "",
            f"{number(fastest['rate'])} {_name(fastest)}" if fastest else "",
            number(ours["rate"]),
            f"**{ours['ratio']:.2f}**",
            f"{number(direct['p99_ms'])} ms" if direct else "",
            f"{number(quickest['p99_ms'])} ms {_name(quickest)}" if quickest else "",
            f"{number(ours['p99_ms'])} ms",
            f"**{ours['p99_ratio']:.2f}**",
        ])  # fmt: skip
    return lines


def _plain(rows: Sequence[Record]) -> list[list[list[str]]]:
    """Every row, in a table with those that have the same columns; without what is long beside others."""
    alike: dict[tuple[str, ...], list[Record]] = {}
    for row in rows:
        alike.setdefault(tuple(name for name, value in row.items() if _shown(value)), []).append(row)
    return [
        [[name.replace("_", " ") for name in names], *([_cell(row[name]) for name in names] for row in each)]
        for names, each in alike.items()
        if len(each) <= _DETAILS_MAX or len(alike) == 1
    ]


def _shown(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float | None) else str(value)


def number(value: float | None) -> str:
    """Three digits, about as many as mean anything."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _name(row: Record) -> str:
    target: str = row["target"]
    return _NAMES.get(target, target)


def _caption(record: Record) -> str:
    said = [_subject(record)]
    if record["benchmark"] == "upstream_bound":
        said.append("Ratios are to the best of all others")
    said += [
        f"Full batches cut by hand: {number(row['rate'])} texts/s"
        for row in record["rows"]
        if row.get("target") == "hand"
    ]
    if record["benchmark"] == "upstream_bound" and record["options"].get("servers", 1) > 1:
        busiest = max(row.get("busiest") or 0.0 for row in record["rows"])
        said.append(f"The gateway's busiest server had at most {busiest:.2f} of an even share")
    day, commit = record["taken"][:10], record["versions"]["infinity-gateway"]
    said += [_place(record), f"`{record['command']}`, {day}, commit {commit}"]
    return ". ".join(said) + "."


def _subject(record: Record) -> str:
    """The model and its servers, where there are any."""
    options, infinity = record["options"], record["versions"].get("infinity-emb", "")
    if record["benchmark"] == "scale":
        return "A simulation: no servers, no model"
    if not options.get("model"):
        return "Scripted servers in place of Infinity, no model"
    servers = options.get("servers", 1)
    texts = f"{_TEXTS[options['texts']]}, " if "texts" in options else ""
    return f"{texts}{_MODELS[options['model']]}, {servers} Infinity {infinity} server{'s' * (servers > 1)}"


def _place(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores; no GPU was measured"


def pyplot() -> Any:
    """matplotlib's, in our look: on white and on black, and the same bytes each time."""
    import matplotlib as mpl  # type: ignore[import-not-found]
    from matplotlib import pyplot as plt

    mpl.rcParams |= {
        "svg.fonttype": "none", "svg.hashsalt": "figures", "font.family": "sans-serif", "font.size": 9,
        **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
        "axes.labelcolor": INK, "axes.edgecolor": INK, "grid.alpha": 0.3,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    return plt


def plot(record: Record, path: Path) -> None:
    """Two panels side by side, a line for each target; the same bytes whenever the record is the same."""
    plt = pyplot()
    from matplotlib import ticker

    (x, x_label), *panels = _PLOTS[record["benchmark"]]
    rows = [row for row in record["rows"] if row["target"] in _LOOKS]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    for panel, (y, y_label) in zip(axes, panels, strict=True):
        for target in dict.fromkeys(row["target"] for row in rows):
            points = [(row[x], row[y]) for row in rows if row["target"] == target and row[y]]
            colour, marker = _LOOKS[target]
            panel.plot(
                *zip(*points, strict=True), color=colour, marker=marker, markersize=4,
                linewidth=2.4 if target == "gateway" else 1.2, label=_NAMES.get(target, target),
            )  # fmt: skip
        for hand in (row for row in record["rows"] if row["target"] == "hand" and y == "rate"):
            panel.axhline(hand[y], color=INK, linestyle=":", linewidth=1, label=_NAMES["hand"])
        if y == "rate":
            panel.set_ylim(bottom=0)
        else:
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        if x == "connections":
            panel.set_xscale("log", base=2)
            panel.set_xticks(sorted({row[x] for row in rows}))
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(ticker.NullLocator())
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        panel.grid()
    figure.suptitle(f"{_subject(record)}\n{_place(record)}", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, labelcolor=INK)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    pyplot().close(figure)


def _is_a_line(record: Record) -> bool:
    """Whether there are points enough to plot."""
    if record["benchmark"] not in _PLOTS:
        return False
    x = _PLOTS[record["benchmark"]][0][0]
    return len({row[x] for row in record["rows"] if row["target"] == "gateway"}) > 2


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))}
    tables = {name: table(record) for name, record in records.items() if record["rows"]}
    for readme in READMES:
        text = readme.read_text()
        if (filled := fill(text, tables)) != text:
            readme.write_text(filled)
    for name, record in records.items():
        if _is_a_line(record):
            plot(record, RUNS / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The dashboard, as Grafana's own types read it."""

import json
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel, RowPanel
from grafana_foundation_sdk.models.prometheus import Dataquery

from tools import dashboard

ROWS = ["Traffic", "Latency", "Batching", "Servers", "Saturation", "Errors", "Saved work"]
COLUMNS = 24


@pytest.fixture(scope="module")
def content() -> Any:
    return json.loads(dashboard.FILE.read_text())


@pytest.fixture(scope="module")
def loaded(content: Any) -> Dashboard:
    register_default_plugins()
    return Dashboard.from_json(content)


def panels(loaded: Dashboard) -> list[Panel]:
    return [panel for panel in loaded.panels or () if isinstance(panel, Panel)]


def test_the_file_is_what_the_script_writes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text()


def test_grafanas_types_know_every_field(content: Any, loaded: Dashboard) -> None:
    """What they do not know is lost when they write it again."""
    written = json.loads(JSONEncoder().encode(loaded))
    assert list(lost("", content, written)) == []


def lost(path: str, ours: Any, written: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(written, dict):
        return [
            place
            for key, value in ours.items()
            for place in (lost(f"{path}.{key}", value, written[key]) if key in written else [f"{path}.{key}"])
        ]
    if isinstance(ours, list) and isinstance(written, list) and len(ours) == len(written):
        pairs = enumerate(zip(ours, written, strict=True))
        return [place for i, (a, b) in pairs for place in lost(f"{path}[{i}]", a, b)]
    return [] if ours == written else [path]


def test_rows_and_variables(loaded: Dashboard) -> None:
    assert [panel.title for panel in loaded.panels or () if isinstance(panel, RowPanel)] == ROWS
    assert loaded.templating.list_val
    assert [variable.name for variable in loaded.templating.list_val] == ["datasource", "model", "deployment"]


def test_every_panel_tells_what_it_shows(loaded: Dashboard) -> None:
    """With a description, a unit, legends, and queries to the data source that was chosen."""
    assert len(panels(loaded)) > 30
    for panel in panels(loaded):
        assert panel.title
        assert panel.description
        assert panel.description.endswith(".")
        assert panel.field_config.defaults.unit
        assert panel.datasource
        assert panel.datasource.uid == "${datasource}"
        assert panel.targets
        for target in panel.targets:
            assert isinstance(target, Dataquery)
            assert target.legend_format


def test_no_panel_covers_another(loaded: Dashboard) -> None:
    taken = set[tuple[int, int]]()
    for panel in loaded.panels or ():
        place = panel.grid_pos
        assert place
        assert place.x + place.w <= COLUMNS
        cells = {(place.x + i, place.y + j) for i in range(place.w) for j in range(place.h)}
        assert not cells & taken, panel.title
        taken |= cells
    ids = [panel.id_val for panel in loaded.panels or ()]
    assert len(ids) == len(set(ids))

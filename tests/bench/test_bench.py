"""The benchmark itself: every row of its table is there and a finite number. What the numbers are is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.document import REAL, STANDIN, Book, Measurement
from tests.bench.measure import ROOT, Results
from tests.support.environment import SOURCE_URL
from tests.support.sources import SourceServer

EXPECTED = {
    "load_shell", "load_naive", "load", "load_to_shell", "load_to_naive", "load_companion", "unchanged",
    "unchanged_companion", "changed", "changed_bytes", "changed_companion",
    "mixed", "mixed_bytes", "mixed_companion", "deep", "mass_delta", "mass_snapshot",
    "verify", "delta", "visible_p50", "visible_p90", "source_p50", "extra_p50", "extra_p90", "cold_start",
    "help", "memory_load", "memory_deep", "memory_verify", "memory_mass_delta", "memory_mass_snapshot",
    "shards_followed_cpu", "shards_following_cpu", "shards_cpu", "shards_serial_cpu", "shards_rows_cpu",
    "shards_seconds",
    "json_load", "json_bytes", "hash_load", "hash_bytes",
    "views_unchanged", "views_visible_p50", "views_extra_p50", "views_peak",
    "views_sockets", "views_threads", "views_source_p50", "views_cpu",
    "readers_quiet", "readers_copy", "readers_load", "readers_free", "throttle_cost",
}  # fmt: skip


def bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", "--rows", "2000", "--repeat", "1", *arguments]
    own = {name: value for name, value in os.environ.items() if name != SOURCE_URL}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, env={**own, **env})


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_row_is_measured(tmp_path: Path, source_server: SourceServer) -> None:
    """A small run ends well, and its table, JSON and plot are complete: here on a source that the environment names."""
    options = []
    for option, name in (
        ("--json", "b.json"),
        ("--plot", "b.svg"),
        ("--readers-plot", "r.svg"),
        ("--markdown", "b.md"),
    ):
        options += [option, str(tmp_path / name)]
    ended = bench(*options, MATERIALIZE_URL=source_server.url)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (size,) = json.loads((tmp_path / "b.json").read_text())[REAL]["sizes"]
    assert size["failures"] == {}
    found = {figure["key"]: figure for figure in size["figures"]}
    assert set(found) == EXPECTED
    for figure in found.values():
        assert math.isfinite(figure["value"]), figure
        assert figure["label"].strip() in ended.stdout
        assert figure["label"].strip() in ended.stderr, "not shown when it was measured"
    assert [(entry["changed"], entry["config"]) for entry in size["counters"]] == [
        (changed, config) for changed in (0, 1, 100) for config in ("plain", "companion")
    ]
    assert [entry["puts"] for entry in size["counters"]] == [0, 0, 1, 1, 100, 100]
    assert "nothing changed" in (tmp_path / "b.md").read_text()
    for plot in ("b.svg", "r.svg"):
        assert ElementTree.parse(tmp_path / plot).getroot().tag.endswith("svg")


def test_a_step_that_fails_costs_no_other_its_figures(tmp_path: Path) -> None:
    """Without a shell the load cannot be compared; what the file held of the other source stays."""
    kept = tmp_path / "b.json"
    figure = {"rows": 2000, "key": "help", "value": 123456.0}
    kept.write_text(json.dumps({REAL: {"sizes": [{"figures": [figure]}], "growth": []}}))
    ended = bench("--only", "load", "--only", "cold", "--json", str(kept), PATH=str(tmp_path))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "123456" in ended.stdout
    assert "load: failed" in ended.stdout
    pages = json.loads(kept.read_text())
    assert pages[REAL]["sizes"] == [{"figures": [figure]}]
    (size,) = pages[STANDIN]["sizes"]
    assert {figure["key"] for figure in size["figures"]} == {"cold_start", "help"}
    assert "bash" in size["failures"]["load"]


def test_a_few_steps_keep_the_figures_of_the_others(tmp_path: Path) -> None:
    """What a measurement of some steps does not measure stays, at this size and at others; a whole one starts anew."""
    path = tmp_path / "b.json"
    old = {"rows": 2000, "key": "help", "value": 1.0}
    cold = {"rows": 2000, "key": "cold_start", "value": 2.0}
    other = {"rows": 9000, "key": "help", "value": 3.0}

    def size(rows: int, *figures: dict[str, object]) -> dict[str, object]:
        return {"rows": rows, "unit_s": 0.5, "figures": figures, "counters": [], "readers": {"kept": 1}}

    path.write_text(json.dumps({STANDIN: {"sizes": [size(2000, old, cold), size(9000, other)], "growth": []}}))
    measured = {"ratio": 4.0, "first_statement": 0.1, "imports": 0.1, "python": 0.1, "help": 0.5}
    for whole, kept in ((False, {(2000, "help"): 5.0, (2000, "cold_start"): 4.0, (9000, "help"): 3.0}),
                        (True, {(2000, "help"): 5.0, (2000, "cold_start"): 4.0})):  # fmt: skip
        measurement = Measurement(real=False, repeat=1, whole=whole, sizes=[Results(2000, cold=measured)])
        Book.read(path).keep(measurement)
        sizes = json.loads(path.read_text())[STANDIN]["sizes"]
        found = {(size["rows"], figure["key"]): figure["value"] for size in sizes for figure in size["figures"]}
        assert found == kept
        assert sizes[0]["unit_s"] == (None if whole else 0.5)
        assert sizes[0]["readers"] == ({} if whole else {"kept": 1})

"""The benchmark itself: every row of its table is there and a finite number. What the numbers are is not tested."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.measure import ROOT

EXPECTED = {
    "load_shell", "load_naive", "load", "load_to_shell", "load_to_naive", "load_companion", "unchanged",
    "unchanged_companion", "changed", "changed_bytes", "changed_companion",
    "mixed", "mixed_bytes", "mixed_companion", "deep", "mass_delta", "mass_snapshot",
    "verify", "delta", "visible_p50", "visible_p90", "source_p50", "extra_p50", "extra_p90", "cold_start",
    "help", "memory_load", "memory_deep", "memory_verify", "memory_mass_delta", "memory_mass_snapshot",
}  # fmt: skip


@pytest.mark.alone
def test_every_row_is_measured(tmp_path: Path) -> None:
    """A small run ends well, and its table, JSON and plot are complete."""
    command = [sys.executable, "-m", "tests.bench", "--rows", "2000", "--repeat", "1"]
    for option, name in (("--json", "b.json"), ("--plot", "b.svg"), ("--markdown", "b.md")):
        command += [option, str(tmp_path / name)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads((tmp_path / "b.json").read_text())
    (size,) = document["sizes"]
    found = {figure["key"]: figure for figure in size["figures"]}
    assert set(found) == EXPECTED
    for figure in found.values():
        assert math.isfinite(figure["value"]), figure
        assert figure["label"].strip() in ended.stdout
    assert [(entry["changed"], entry["config"]) for entry in size["counters"]] == [
        (changed, config) for changed in (0, 1, 100) for config in ("plain", "companion")
    ]
    assert [entry["puts"] for entry in size["counters"]] == [0, 0, 1, 1, 100, 100]
    assert "nothing changed" in (tmp_path / "b.md").read_text()
    assert ElementTree.parse(tmp_path / "b.svg").getroot().tag.endswith("svg")

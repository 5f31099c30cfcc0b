"""Repairs of more rows than names can be held: surplus keys are found, and a key with two rows is noticed."""

from __future__ import annotations

import pytest

from reconcile.compare import surplus
from tests.faults.history import FILLED_ROWS, History

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize("batch", [3, 50_000])
@pytest.mark.parametrize("mode", ["snapshot", "deep"])
@pytest.mark.parametrize("gone", [1, 90, FILLED_ROWS - 30, FILLED_ROWS])
def test_surplus_keys_are_removed(
    gone: int, mode: str, batch: int, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some, most or all rows go, others change or are new: what is left is the view. Few names are held."""
    monkeypatch.setattr(surplus, "HELD_NAMES", 20)
    scene = history.scene
    scene.write(
        f"DELETE FROM t WHERE substring(key, 2)::int <= {gone}",
        "UPDATE t SET value = value || '!' WHERE key LIKE '%7'",
        "INSERT INTO t SELECT 'new' || n, 'x' FROM generate_series(1, 25) AS n",
    )
    scene.batch_max_keys = batch
    report = scene.ok("snapshot", deep=mode == "deep", allow_deletes=True)
    assert report.deletes == gone
    scene.check()


STRAYS = 60


@pytest.mark.parametrize("mode", ["snapshot", "deep"])
@pytest.mark.parametrize("strays", [0, STRAYS])
def test_keys_without_names_are_judged_by_their_sum(
    strays: int, mode: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of candidates whose names are not held all of a bucket are the view's, or none is known to be: those stay."""
    monkeypatch.setattr(surplus, "HELD_NAMES", 0)
    scene = history.scene
    if strays and not scene.prefix:
        pytest.skip("what a view remembers is its own")
    names = [scene.prefix + f"stray{n}".encode() for n in range(strays)]
    for name in names:
        scene.client.set(name, "x")
    scene.write("DELETE FROM t WHERE substring(key, 2)::int <= 60")
    report = scene.execute("snapshot", deep=mode == "deep")
    if not strays:
        assert (report.exit_code, report.deletes) == (0, 60), report.error
        scene.check()
        return
    assert (report.exit_code, report.deletes) == (5, 0), report.error
    assert scene.client.exists(*names, scene.prefix + b"k1", scene.prefix + b"k60") == strays + 2


@pytest.mark.parametrize("held", [1, 100_000])
def test_a_handful_is_named_or_waits(held: int, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nothing shows to be the view's goes without consent only if the report can say which keys went."""
    monkeypatch.setattr(surplus, "HELD_NAMES", held)
    scene = history.scene
    if not scene.prefix:
        pytest.skip("what a view remembers is its own")
    names = [f"p:stray{n}" for n in range(3)]
    scene.client.mset(dict.fromkeys(names, "x"))
    report = scene.execute("snapshot", deep=True)
    told = " ".join(report.warnings)
    if held == 1:
        assert (report.exit_code, report.deletes, scene.client.exists(*names)) == (5, 0, 3), told
    else:
        assert (report.exit_code, report.deletes) == (0, 3), report.error
        assert all(name in told for name in names), told
        scene.check()


@pytest.mark.parametrize("gone", [0, 100, FILLED_ROWS])
def test_drift_of_many_keys_is_counted_exactly(gone: int, history: History) -> None:
    """Others have removed, edited and added more keys than names can be held: verify counts each, and names some."""
    scene, client = history.scene, history.scene.client
    at = [scene.prefix + f"k{n}".encode() for n in range(1, FILLED_ROWS + 1)]
    if gone:
        client.delete(*at[:gone])
    stale = at[gone : gone + 70]
    for key in stale:
        client.set(key, "edited")
    extra = 60 if scene.prefix else 0  # without a prefix nothing says that these would be ours
    for n in range(extra):
        client.set(scene.prefix + f"stray{n}".encode(), "x")
    report = scene.execute("verify", max_report=500)
    assert report.drift is not None
    assert (report.drift.missing, report.drift.stale, report.drift.extra) == (gone, len(stale), extra)
    assert set(report.drift.causes) <= {"changed outside"}
    named = {entry["key"]: entry["kind"] for entry in report.drift.keys}
    assert len(named) == len(report.drift.keys)
    strays = [key for key in named if named[key] == "extra"]
    assert {key: kind for key, kind in named.items() if kind != "extra"} == {
        **{key.decode(): "missing" for key in at[:gone]},
        **{key.decode(): "stale" for key in stale},
    }
    assert all("stray" in key for key in strays)
    assert bool(strays) == bool(extra)


@pytest.mark.parametrize("mode", ["snapshot", "deep"])
def test_keys_whose_value_became_null(mode: str, history: History) -> None:
    """The source still names them: they are removed, and counted for the guard, without being searched for."""
    scene = history.scene
    scene.write("UPDATE t SET value = NULL WHERE key LIKE '%5'", "UPDATE t SET value = 'w' WHERE key LIKE '%6'")
    report = scene.ok("snapshot", deep=mode == "deep")
    assert (report.puts, report.deletes) == (FILLED_ROWS // 10, FILLED_ROWS // 10)
    scene.check()
    scene.write("UPDATE t SET value = NULL WHERE key NOT LIKE '%6'")
    report = scene.execute("snapshot", deep=mode == "deep")
    assert report.exit_code == 5
    assert report.deletes_withheld == FILLED_ROWS * 8 // 10
    scene.ok("snapshot", allow_deletes=True)
    scene.check()


@pytest.mark.parametrize("held", [0, 20])
def test_all_values_became_null(held: int, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source names every key that is to go, and more of them than names are held."""
    monkeypatch.setattr(surplus, "HELD_NAMES", held)
    scene = history.scene
    scene.write("UPDATE t SET value = NULL")
    report = scene.ok("snapshot", allow_deletes=True)
    assert report.deletes == FILLED_ROWS
    scene.check()

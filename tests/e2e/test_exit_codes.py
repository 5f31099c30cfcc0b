"""One code for several views: the worst, and drift before all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


@pytest.fixture
def several(command: Command, source: Source) -> Command:
    """Views a and b, and c whose view does not exist."""
    sql = command.config["materialize"].pop("sql")
    del command.config["redis"]["key_prefix"]
    command.config["views"] = [{"name": name, "key_prefix": name, "sql": sql} for name in ("price-a", "price-b")]
    command.config["views"].append({"name": "other", "key_prefix": "other", "sql": "SELECT key, value FROM nosuch"})
    source.put(k="1")
    return command


def test_drift_is_not_hidden_by_another_view_s_trouble(several: Command, redis_server: RedisServer) -> None:
    """verify: 3 though one view is a usage error; run: the usage error."""
    assert several("run", expect=2).report["views_by_exit_code"] == {"0": 2, "2": 1}
    assert several("verify", expect=2).report["views_by_exit_code"] == {"0": 2, "2": 1}
    redis_server.client().delete("price-b:k")
    report = several("verify", expect=3).report
    assert report["views_by_exit_code"] == {"0": 1, "2": 1, "3": 1}
    assert report["status"] == "drift"


def test_views_are_chosen_by_pattern(several: Command) -> None:
    """In the order asked for, each once; a pattern without match is a usage error before anything is connected."""
    report = several("run", "--view", "price-b", "--view", "price-*").report
    assert [view["view"] for view in report["views"]] == ["price-b", "price-a"]
    assert "no view is named 'prize-*'" in several("run", "--view", "prize-*", expect=2).report["error"]["message"]
    assert [view["view"] for view in several("status", "--view", "p*").report["views"]] == ["price-a", "price-b"]


@pytest.mark.parametrize(
    "words",
    [
        ("snapshot", "--as-of", "noon"),
        ("snapshot", "--as-of", "2026-01-01"),
        ("verify", "--subset", "4/4"),
        ("verify", "--subset", "last"),
        ("delta", "--for", "1s", "--until-current"),
        ("run", "--as-of", "now"),
        ("run", "--detailed-exitcode"),
        ("verify", "--allow-deletes"),
    ],
)
def test_what_a_mode_cannot_do_is_refused_before_anything_is_connected(
    command: Command, words: tuple[str, ...]
) -> None:
    """Exit 2 though nothing is reachable (6); the message names the flag."""
    command.config["redis"]["url"] = "redis://127.0.0.1:1/0"
    report = command(*words, expect=2).report
    assert words[1] in report["error"]["message"]


def test_time_runs_out_while_another_run_is_waited_for(command: Command, redis_server: RedisServer) -> None:
    """Exit 4, and it says who was waited for and what to do about it."""
    redis_server.client().set("reconcile:{default}:lease", "another run", px=60_000)
    error = command("run", "--if-leased", "wait", "--max-runtime", "1s", expect=4).view["error"]
    assert "stopped (deadline) while waiting: view default is being written by another run" in error["message"]
    assert "try again" in error["hint"]


def test_interrupted_while_it_starts(tmp_path: Path) -> None:
    """Ctrl-C while modules are imported: 130 as in shells, without a traceback."""
    (tmp_path / "click.py").write_text("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "reconcile", "status"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **paths})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")

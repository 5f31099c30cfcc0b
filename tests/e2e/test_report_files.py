"""--html and --metrics-file of real runs; a file that cannot be written never changes how a run ended."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source


def test_metrics_over_several_runs(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Success, failure and drift as a collector would see them."""
    path = command.directory / "reconcile.prom"
    source.put(a="1", b="2")
    command("run", "--metrics-file", str(path))
    success = re.findall(r"last_success_timestamp_seconds\{.*", path.read_text())
    assert len(success) == 1
    assert 'reconcile_rows{view="default",mode="run",op="put"} 2' in path.read_text()
    redis_server.client().delete("p:a")
    command("verify", "--metrics-file", str(path), expect=3)
    command.config["redis"]["url"] = "redis://127.0.0.1:1/0"
    command("run", "--metrics-file", str(path), expect=6)
    text = path.read_text()
    assert success[0] in text
    assert 'reconcile_exit_code{view="default",mode="run"} 6' in text
    assert 'reconcile_drift_keys{view="default",mode="verify",kind="missing"} 1' in text


def test_page_of_a_verify(command: Command, source: Source, redis_server: RedisServer) -> None:
    """The page names what the report names, and values only on demand."""
    path = command.directory / "page.html"
    source.put(a="secret-value")
    command("snapshot")
    redis_server.client().set("p:a", "other-value")
    command("verify", "--html", str(path), expect=3)
    assert "p:a" in path.read_text()
    assert "secret-value" not in path.read_text()
    command("verify", "--html", str(path), "--show-values", expect=3)
    assert "secret-value" in path.read_text()


def test_summary_for_a_job(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Markdown beside whatever goes to stdout."""
    path = command.directory / "summary.md"
    source.put(a="1")
    command("snapshot")
    redis_server.client().delete("p:a")
    command("verify", "--markdown", str(path), expect=3)
    assert path.read_text().startswith("## ❌ reconcile verify: Drift found\n")
    assert "p\\:a" in path.read_text()


def test_page_of_all_views(command: Command, source: Source) -> None:
    """A page from what status knows, and nothing on stdout; one that cannot be written is exit 2."""
    path = command.directory / "status.html"
    source.put(a="1", b="2")
    command("run")
    assert command("status", "--html", str(path)).out == ""
    assert "All is well" in path.read_text()
    command("status", "--html", str(command.directory / "missing" / "file"), expect=2)


@pytest.mark.parametrize("option", ["--html", "--markdown", "--metrics-file"])
def test_a_file_that_cannot_be_written(command: Command, source: Source, option: str) -> None:
    """A warning on stderr, the report and exit code as ever."""
    source.put(a="1")
    command("snapshot")
    result = command("verify", option, str(command.directory / "missing" / "file"))
    assert result.report["status"] == "done"
    assert "cannot write" in result.err


def test_the_log_says_what_a_run_did(command: Command, source: Source) -> None:
    """Beside a report for programs the log has one line for people, which stands for itself."""
    source.put(a="1")
    lines = [json.loads(line) for line in command("run").err.splitlines()]
    (message,) = [line["message"] for line in lines if line["logger"] == "reconcile.cli.work"]
    assert re.fullmatch(
        r"default: run: (deep )?snapshot \(first contact.*\): put 1, delete 0; .*1 key; took [\d.]+ m?s; "
        r"as of \d+ \(\S+Z\); exit 0",
        message,
    )

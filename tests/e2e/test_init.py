"""init: the printed configuration is accepted, and the printed statements make a companion view that runs trust."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.command import PROGRAM, Command
from tests.support.sources import Source


def reconcile(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_starter_is_accepted_once_it_is_filled_in(tmp_path: Path, source: Source) -> None:
    """reconcile init > config.yaml, host names edited, config check."""
    starter = reconcile("init", cwd=tmp_path)
    assert starter.returncode == 0
    text = starter.stdout.replace("your-materialize-host", "localhost").replace("your-redis-host", "localhost")
    (tmp_path / "config.yaml").write_text(text)
    checked = reconcile("config", "check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "default" in checked.stdout


def test_what_the_starter_comments_on_exists(tmp_path: Path) -> None:
    """Every commented setting is accepted too."""
    text = reconcile("init", cwd=tmp_path).stdout
    live = re.sub(r"^(\s*)# ?(\s*[a-z_]+:)", r"\1\2", text, flags=re.MULTILINE)
    assert live.count("#") < text.count("#") / 2
    for section in ("materialize", "redis"):
        (tmp_path / section).write_text("secret")
    live = live.replace("/run/secrets/", f"{tmp_path}/")
    (tmp_path / "config.yaml").write_text(live)
    checked = reconcile("config", "check", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_companion_view(command: Command, source: Source) -> None:
    """The statements run as printed; doctor is content, and the next run reads only what changed."""
    source.put(a="1", b="2", c=None)
    command("snapshot")
    made = command("init", "--companion").report
    for statement in made["ddl"].split(";\n"):
        if statement:
            source.execute(statement)
    view = {"name": "default", "sql": source.sql, "key_prefix": "p"}
    view |= {"companion": made["companion"], "buckets": made["buckets"]}
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [view]
    checks = {finding["check"]: finding for finding in command("doctor").report["checks"]}
    assert checks["companion view"]["level"] == "ok"
    command("run")
    source.put(a="9")
    report = command("run").view
    assert (report["puts"], report["warnings"]) == (1, [])


def test_text_is_sql_and_its_comment_is_yaml(command: Command, source: Source) -> None:
    """All of the output may be given to psql; the lines for the configuration may be pasted."""
    command.write_config()
    printed = reconcile("init", "--companion", "--config", str(command.config_path), cwd=command.directory)
    statements = "\n".join(line for line in printed.stdout.splitlines() if not line.startswith("--"))
    for statement in statements.split(";\n"):
        source.execute(statement.removesuffix(";"))
    lines = re.findall(r"^--     (.*)$", printed.stdout, re.MULTILINE)
    pasted = yaml.safe_load("\n".join(lines))
    assert source.execute(f"SELECT count(*) FROM {pasted['companion']}")
    assert pasted["buckets"] == 16


def test_number_of_buckets(command: Command, source: Source) -> None:
    """Asked for, else configured, else the state's, else by the number of rows."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 1000) AS n")
    assert command("init", "--companion").report["buckets"] == 64
    command("snapshot")
    source.execute("INSERT INTO t SELECT 'm' || n, 'v' FROM generate_series(1, 1000) AS n")
    assert command("init", "--companion").report["buckets"] == 64
    assert command("init", "--companion", RECONCILE_VIEW__BUCKETS="256").report["buckets"] == 256
    assert "% 512::uint4" in command("init", "--companion", "--buckets", "512").report["ddl"]
    command.config["redis"]["url"] = "redis://127.0.0.1:1/0"
    assert command("init", "--companion").report["buckets"] == 128


@pytest.mark.parametrize(
    "arguments",
    [
        ("--companion", "--buckets", "100"),
        ("--companion", "no such name"),
        ("--companion", "--view", "other"),
        ("--buckets", "64"),
    ],
)
def test_wrong_use(command: Command, source: Source, arguments: tuple[str, ...]) -> None:
    """Exit 2 and nothing on the way of a redirection into a file."""
    result = command("init", *arguments, expect=2)
    assert "CREATE" not in result.out
    assert "materialize:" not in result.out


def test_chosen_name(command: Command, source: Source) -> None:
    """The given name is used as it is."""
    made = command("init", "--companion", f"{source.schema}.mine").report
    assert made["companion"] == f"{source.schema}.mine"
    assert f"CREATE VIEW {source.schema}.mine AS" in made["ddl"]

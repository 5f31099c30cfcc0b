"""init: the printed configuration is accepted, and the printed statements make a companion view that runs trust."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source
from tests.support.terminal import on_terminal


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


def test_number_of_buckets(command: Command, source: Source) -> None:
    """Asked for, else configured, else the state's, else by the number of rows."""
    source.execute("INSERT INTO t SELECT 'k' || n, 'v' FROM generate_series(1, 1000) AS n")
    assert command("init", "--companion").report["buckets"] == 64
    command("snapshot")
    source.execute("INSERT INTO t SELECT 'm' || n, 'v' FROM generate_series(1, 1000) AS n")
    assert command("init", "--companion").report["buckets"] == 16
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


def test_relation(command: Command, source: Source) -> None:
    """A configuration for a view that exists: accepted as it is, and its first run loads the view."""
    source.put(a="1")
    source.execute("CREATE TABLE wide (id int, name text, price int)")
    source.execute("INSERT INTO wide VALUES (7, 'x', 2)")
    wanted = [one for name in ("v", "wide") for one in ("--relation", f"{source.schema}.{name}")]
    config = command("init", *wanted).report["config"]
    written = yaml.safe_load(config)
    assert [(view["name"], view["key"], view.get("layout", "string")) for view in written["views"]] == [
        ("v", "key", "string"),
        ("wide", "id", "json"),
    ]
    assert written["materialize"]["port"]
    (command.directory / "made.yaml").write_text(config)
    checked = reconcile("config", "check", "--config", "made.yaml", cwd=command.directory)
    assert checked.returncode == 0, checked.stderr
    command.config = {**written, "views": written["views"][:1]}
    assert command("run").view["keys"] == 1


def test_relation_without_a_configuration(source: Source, tmp_path: Path) -> None:
    """Where Materialize is may come from the environment alone; else it is asked for."""
    done = subprocess.run(
        [PROGRAM, "init", "--relation", f"{source.schema}.v"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MATERIALIZE_URL": source.url},
    )
    assert "your-redis-host" in done.stdout
    nowhere = reconcile("init", "--relation", "v", cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "MATERIALIZE_URL" in nowhere.stderr


def test_relation_that_does_not_exist(command: Command, source: Source) -> None:
    """Exit 2, and the names that come close."""
    source.execute("CREATE TABLE prices (key text, value text)")
    result = command("init", "--relation", f"{source.schema}.price", expect=2)
    assert f"{source.schema}.prices" in result.report["error"]["hint"]


def test_relation_that_needs_quotes(command: Command, source: Source) -> None:
    """The suggestion is another name than the refused one, ready for the shell."""
    source.execute('CREATE TABLE "Prices" (key text, value text)')
    hint = command("init", "--relation", f"{source.schema}.Prices", expect=2).report["error"]["hint"]
    assert f"""'materialize.{source.schema}."Prices"'""" in hint
    made = yaml.safe_load(command("init", "--relation", f'{source.schema}."Prices"').report["config"])
    assert made["views"][0]["name"] == "Prices"


@pytest.mark.parametrize("name", ["", " ", "a.b.c.d", "x; DROP TABLE t", "t) AS q; DROP TABLE t; --"])
def test_relation_that_is_no_name(command: Command, source: Source, name: str) -> None:
    """Refused as in a configuration, before any of it reaches Materialize: init creates nothing, and drops nothing."""
    source.put(a="1")
    result = command("init", "--relation", name.replace("t)", f"{source.schema}.t)"), expect=2)
    assert "is not the name of a view" in result.report["error"]["message"]
    command("snapshot")


def test_choice_on_a_terminal(command: Command, source: Source) -> None:
    """It lists what there is on stderr, asks, and prints the configuration alone on stdout."""
    command.write_config()
    with on_terminal("init", config=command.config_path) as terminal:
        asked = terminal.wait_for("Which ones")
        (number,) = re.findall(rf"(\d+)  \S*{source.schema}\.v ", asked)
        terminal.type(f"{number}\n")
        code, out = terminal.end()
    assert code == 0
    assert yaml.safe_load(out)["views"][0]["name"] == "v"


def test_ctrl_c_at_the_question(command: Command, source: Source) -> None:
    """It ends the command at once: no work is under way that would have to be finished first."""
    command.write_config()
    with on_terminal("init", config=command.config_path) as terminal:
        terminal.wait_for("Which ones")
        assert terminal.end(signal.SIGINT) == (-signal.SIGINT, "")


def test_nothing_to_migrate(tmp_path: Path) -> None:
    """The flag is named that names the file."""
    refused = reconcile("init", "--from", "gone.yaml", cwd=tmp_path)
    assert (refused.returncode, "--from: gone.yaml: no such file" in refused.stderr) == (2, True)


def test_migration_from_mz_redis_sync(source: Source, command: Command, redis_server: RedisServer) -> None:
    """What is printed is accepted, means the same, and first contact is as it says: exit 5, then consent."""
    source.put(a="1")
    old = {"materialize": {**command.config["materialize"], "password": "hidden"}, "redis": command.config["redis"]}
    (command.directory / "old.yaml").write_text(json.dumps(old))
    printed = reconcile("init", "--from", "old.yaml", cwd=command.directory)
    assert printed.returncode == 0, printed.stderr
    assert "hidden" not in printed.stdout
    (command.directory / "config.yaml").write_text(printed.stdout)
    command.config = yaml.safe_load(printed.stdout)
    with redis_server.client() as client:
        client.mset({f"p:left{n}": "x" for n in range(20)} | {"p:a": "old"})
        refused = command("run", expect=5).view
        assert client.get("p:a") == b"1"
        assert client.exists("p:left0")
        assert "--allow-deletes" in refused["error"]["hint"]
        command("snapshot", "--allow-deletes")
        assert client.keys("p:*") == [b"p:a"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """click's own script, for the program's name."""
    done = reconcile("completion", shell, cwd=tmp_path)
    assert done.returncode == 0
    assert "_RECONCILE_COMPLETE" in done.stdout


def test_completion_completes(tmp_path: Path) -> None:
    """What the script calls answers with commands."""
    done = subprocess.run(
        [PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "_RECONCILE_COMPLETE": "bash_complete", "COMP_WORDS": "reconcile st", "COMP_CWORD": "1"},
    )
    assert "plain,status" in done.stdout

"""The exit code says what the run did, whatever becomes of its output. Real processes under a real shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import PROGRAM, Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source

UNREACHABLE = "redis://127.0.0.1:1/0"


def shell(
    command: Command, line: str, pass_fds: tuple[int, ...] = (), **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash with `reconcile` on the PATH and the test's configuration; its code is the first command's."""
    command.write_config()
    environ = {**os.environ, "RECONCILE_CONFIG": str(command.config_path), **env}
    environ["PATH"] = f"{Path(PROGRAM).parent}:{environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=command.directory,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
        pass_fds=pass_fds,
    )


@pytest.fixture
def drifted(command: Command, source: Source, redis_server: RedisServer) -> Command:
    """One of two keys was changed in Redis."""
    source.put(a="1", b="2")
    command("snapshot")
    redis_server.client().set("p:a", "changed")
    return command


AWAY = ["", "| true", ">/dev/full", ">&-", "2>&-", "2>&1 | true", ">/dev/full 2>&1", ">&- 2>&- <&-", "2>/dev/full"]


@pytest.mark.parametrize("redirection", AWAY)
def test_a_run_does_its_work(command: Command, source: Source, redis_server: RedisServer, redirection: str) -> None:
    """Redis is brought up to date, and the code says so."""
    source.put(a="1")
    result = shell(command, f"reconcile run --json {redirection}")
    assert result.returncode == 0, result.stderr
    assert redis_server.client().get("p:a") == b"1"


@pytest.mark.parametrize("redirection", AWAY)
@pytest.mark.parametrize("as_json", ["", "--json"])
def test_drift_is_told(drifted: Command, redirection: str, as_json: str) -> None:
    """Exit 3 without a traceback."""
    result = shell(drifted, f"reconcile verify {as_json} {redirection}")
    assert result.returncode == 3
    assert b"Traceback" not in result.stderr + result.stdout
    assert b"Exception ignored" not in result.stderr


CODES = {
    "run": 6,
    "status": 6,
    "doctor": 6,
    "explain a": 6,
    "verify --nosuch": 2,
    "snapshot --as-of noon": 2,
    "": 2,
    "run --view nosuch": 2,
    "--help": 0,
    "run --help": 0,
    "--version": 0,
    "init": 0,
    "config show": 0,
}
FULLY = ("run", "verify --nosuch", "--help")
"""One for each way to print: a report, a line on stderr, click's own. The others meet the worst of the redirections."""
WORST = ("2>&1 | true", ">/dev/full 2>&1", ">&- 2>&- <&-")


@pytest.mark.parametrize(
    ("words", "redirection"), [(words, one) for words in CODES for one in (AWAY if words in FULLY else WORST)]
)
def test_other_codes(command: Command, words: str, redirection: str) -> None:
    """Nothing reachable, a usage error, help: as if somebody read it."""
    command.config["redis"]["url"] = UNREACHABLE
    result = shell(command, f"reconcile {words} {redirection}")
    assert result.returncode == CODES[words], result.stderr
    assert b"Traceback" not in result.stderr + result.stdout


def test_who_asked_for_a_file_and_got_none_is_told(drifted: Command) -> None:
    """A full disk is worth a line; a reader that went away is not."""
    assert b"cannot write to stdout: No space left on device" in shell(drifted, "reconcile verify >/dev/full").stderr
    assert shell(drifted, "reconcile verify | true").stderr == b""


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything(drifted: Command) -> None:
    """Who gave us a non-blocking stream gets all of it: a full pipe is not an end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    drifted.write_config()
    script = "from reconcile.cli import streams; streams.guard(); print('x' * 1_000_000)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            assert len(file.read()) == 1_000_001
        assert process.wait() == 0


@pytest.mark.parametrize("words", ["run", "status", "doctor", "explain k", "config check", "config show", "init"])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_nobody_expected_is_a_line_and_exit_1(command: Command, words: str, as_json: bool) -> None:
    """Whatever the command: no traceback, and nothing of the exception's text, which may quote a row or a secret."""
    (command.directory / "sitecustomize.py").write_text(
        "import sys, importlib.abc\n"
        "class Broken(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'reconcile.config':\n"
        "            raise BrokenPipeError(32, 'hunter2')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    line = f"reconcile {words} {'--json' if as_json else ''}"
    result = shell(command, line, PYTHONPATH=str(command.directory))
    assert result.returncode == 1
    assert b"hunter2" not in result.stderr + result.stdout
    if as_json:
        error = json.loads(result.stdout)["error"]
        assert (error["kind"], error["message"]) == ("reconcile_error", "unexpected BrokenPipeError")
    else:
        assert result.stderr.splitlines()[0] == b"error: unexpected BrokenPipeError"
        assert len(result.stderr.splitlines()) == 2


def test_a_usage_error_is_json_too(command: Command) -> None:
    """One JSON object on stdout, also where click refuses the arguments."""
    result = shell(command, "reconcile verify --nosuch --json")
    assert result.returncode == 2
    report = json.loads(result.stdout)
    assert (report["exit_code"], report["error"]["kind"]) == (2, "usage_error")
    assert "--nosuch" in report["error"]["message"]


LATIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "iso-8859-1"}
"""A locale without UTF-8, for streams, arguments and environment, which every machine has."""


def test_a_key_that_the_locale_does_not_have(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Escaped for people; the same JSON everywhere, in ASCII."""
    source.put(日本="1", é="2")
    command("snapshot")
    redis_server.client().delete("p:日本", "p:é")
    result = shell(command, "reconcile verify", **LATIN)
    assert result.returncode == 3, result.stderr
    assert b"p:\\u65e5\\u672c" in result.stdout
    assert "p:é".encode("iso-8859-1") in result.stdout
    result = shell(command, "reconcile verify --json", **LATIN)
    assert result.stdout.isascii()
    keys = {entry["key"] for entry in json.loads(result.stdout)["views"][0]["drift"]["keys"]}
    assert keys == {"p:日本", "p:é"}
    assert b'"view_key"' not in result.stdout
    result = shell(command, "reconcile explain p:日本 --json", **LATIN)
    assert "日本" in json.dumps(json.loads(result.stdout), ensure_ascii=False)


def test_the_prefix_of_the_environment_is_utf_8_in_every_locale(
    command: Command, source: Source, redis_server: RedisServer
) -> None:
    """The same variable means the same keys for cron (no locale) and for a person's terminal."""
    source.put(a="1")
    for env in ({}, LATIN):
        result = shell(command, "reconcile run", RECONCILE_REDIS__KEY_PREFIX="größe", **env)
        assert result.returncode == 0, result.stderr
        keys = {key for key in redis_server.client().keys("*") if not key.startswith(b"reconcile:")}
        assert keys == {"größe:a".encode()}


@pytest.mark.skipif(shutil.which("localedef") is None, reason="localedef makes the locale")
def test_a_real_latin_1_locale(drifted: Command, source: Source, redis_server: RedisServer) -> None:
    """LC_ALL=de_DE (ISO-8859-1), as on machines that were set up long ago."""
    path = drifted.directory / "de_DE"
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(path)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("localedef has no sources here")
    source.put(日本="1")
    redis_server.client().delete("p:日本")
    env = {"LOCPATH": str(drifted.directory), "LC_ALL": "de_DE"}
    result = shell(drifted, "reconcile verify --max-report 5; exit", **env)
    assert b"Traceback" not in result.stderr
    redis_server.client().flushall()  # another prefix than the one claimed would be refused
    assert shell(drifted, "reconcile run", RECONCILE_REDIS__KEY_PREFIX="é", **env).returncode == 0
    assert redis_server.client().get("é:日本") == b"1"


FORGED = "x\n0: in sync\x1b[2J\x1b]0;gone\x07\u202e"


def test_keys_do_not_reach_the_terminal_as_they_are(
    command: Command, source: Source, redis_server: RedisServer
) -> None:
    """A key that forges a line and clears the screen: escaped in verify and explain."""
    source.put(a="1")
    command("snapshot")
    redis_server.client().set(f"p:{FORGED}", "evil\x1b[2J")
    for line in ("reconcile verify --show-values", f"reconcile explain --show-values {shlex.quote('p:' + FORGED)}"):
        result = shell(command, line)
        assert not {0x1B, 0x07} & set(result.stdout + result.stderr), line
        assert "\u202e" not in result.stdout.decode()
        assert b"\n0: in sync" not in result.stdout
        assert b"\\x1b[2J" in result.stdout, line


def test_the_lease_does_not_either(command: Command, source: Source, redis_server: RedisServer) -> None:
    """Whoever may write to Redis must not write to the terminals of those who look: status, run, fail, the log."""
    source.put(a="1")
    command("snapshot")
    redis_server.client().set("reconcile:{default}:lease", FORGED, px=60_000)
    for line in (
        "reconcile status",
        "reconcile run",
        "reconcile run --if-leased fail",
        "reconcile run --log-level debug",
    ):
        result = shell(command, line)
        assert not {0x1B, 0x07} & set(result.stdout + result.stderr), line
        assert b"\n0: in sync" not in result.stdout + result.stderr, line
    assert b"\\x1b[2J" in shell(command, "reconcile status").stdout

"""Paths that are no ordinary files: written to as they are, for a few seconds at most, never replaced."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.test_streams import shell
from tests.support.command import Command
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source

WITHIN_S = 60.0
METRIC = "reconcile_exit_code{"


@pytest.fixture
def ready(command: Command, source: Source) -> Command:
    """A view of one row that is in Redis."""
    source.put(a="1")
    command("snapshot")
    return command


def device(path: Path, kind: int, major: int, minor: int) -> Path:
    """A device node of the test's own: the machine's must survive a failing test."""
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    return path


@pytest.mark.parametrize("option", ["--html", "--metrics-file"])
def test_a_fifo_that_nobody_reads(ready: Command, option: str) -> None:
    """A warning after a few seconds, and the run's own code."""
    fifo = ready.directory / "fifo"
    os.mkfifo(fifo)
    began = time.monotonic()
    result = ready("verify", option, str(fifo))
    assert time.monotonic() - began < WITHIN_S
    assert "nothing has read it" in result.err
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize(("option", "content"), [("--html", "</html>"), ("--metrics-file", METRIC)])
def test_a_fifo_with_a_reader(ready: Command, option: str, content: str) -> None:
    """The reader gets all of it and the end of the file."""
    fifo = ready.directory / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    thread = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    thread.start()
    ready("verify", option, str(fifo))
    thread.join(WITHIN_S)
    assert content in read[0]


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", ">(cat)"])
@pytest.mark.parametrize("redirection", ["| cat", "> file; cat file"])
def test_stdout_as_the_metrics_file(ready: Command, path: str, redirection: str) -> None:
    """Metrics and report, whether it is a pipe or a file."""
    result = shell(ready, f"reconcile verify --metrics-file {path} {redirection}; sleep 0.2")
    assert METRIC in result.stdout.decode()
    assert b"in sync" in result.stdout
    assert result.stderr == b""


def test_stdout_that_is_a_socket(ready: Command) -> None:
    """As under systemd, whose journal cannot be opened by its name."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        result = shell(ready, f"reconcile verify --metrics-file /dev/stdout >&{number}; exit", pass_fds=(number,))
        theirs.close()
        received = b"".join(iter(lambda: ours.recv(65536), b"")).decode()
    assert result.returncode == 0, result.stderr
    assert METRIC in received
    assert "in sync" in received


@pytest.mark.parametrize("option", ["--html", "--metrics-file"])
@pytest.mark.parametrize(("minor", "name"), [(3, "null"), (5, "zero"), (7, "full")])
def test_a_device_stays_one(ready: Command, option: str, minor: int, name: str) -> None:
    """Neither read for ever nor replaced by a file, whoever we are."""
    node = device(ready.directory / name, stat.S_IFCHR, 1, minor)
    link = ready.directory / "link"
    link.symlink_to(node)
    for path in (node, link):
        result = ready("verify", option, str(path))
        assert stat.S_ISCHR(node.stat().st_mode)
        assert ("No space left" in result.err) == (name == "full")
    assert link.is_symlink()


@pytest.mark.parametrize("option", ["--html", "--metrics-file"])
def test_a_symlink_is_followed(ready: Command, option: str) -> None:
    """The file it leads to has the new content; the link stays, also where the file is yet to be made."""
    folder = ready.directory / "elsewhere"
    folder.mkdir()
    for before in ("old", None):
        target = folder / f"target-{before}"
        if before is not None:
            target.write_text(before)
        link = ready.directory / f"link-{before}"
        link.symlink_to(target)
        ready("verify", option, str(link))
        assert link.is_symlink()
        assert "reconcile" in target.read_text()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("option", ["--html", "--metrics-file"])
@pytest.mark.parametrize("kind", ["a directory", "a socket", "a block device"])
def test_what_holds_no_text_is_refused_before_the_run(
    command: Command, source: Source, redis_server: RedisServer, option: str, kind: str
) -> None:
    """Exit 2, nothing was connected to, and it is as it was."""
    source.put(a="1")
    path = command.directory / "it"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        device(path, stat.S_IFBLK, 7, 251)
    before = path.stat()
    result = command("verify", option, str(path), expect=2)
    assert result.report["error"]["message"] == f"{option}: {path} is {kind}"
    assert path.stat().st_ino == before.st_ino
    assert redis_server.client().keys() == []


def test_rights(ready: Command, redis_server: RedisServer) -> None:
    """A page with values is for its owner; other files get the usual rights, and keep those they were given."""
    redis_server.client().set("p:a", "changed")
    old_mask = os.umask(0o022)
    try:
        rights = {}
        for name, words in (
            ("values", ["--html", "values", "--show-values"]),
            ("page", ["--html", "page"]),
            ("metrics", ["--metrics-file", "metrics"]),
        ):
            ready("verify", *words, expect=3)
            rights[name] = stat.S_IMODE((ready.directory / name).stat().st_mode)
        assert rights == {"values": 0o600, "page": 0o644, "metrics": 0o644}
        (ready.directory / "page").chmod(0o664)
        ready("verify", "--html", "page", expect=3)
        assert stat.S_IMODE((ready.directory / "page").stat().st_mode) == 0o664
        ready("verify", "--html", "page", "--show-values", expect=3)
        assert stat.S_IMODE((ready.directory / "page").stat().st_mode) == 0o600
    finally:
        os.umask(old_mask)


def test_a_log_that_is_a_fifo_without_reader(ready: Command) -> None:
    """Refused at once; it would be waited for before the run has a time limit."""
    fifo = ready.directory / "log"
    os.mkfifo(fifo)
    ready.config["logging"] = {"file": str(fifo)}
    result = ready("run", expect=2)
    assert "nobody reads this pipe" in result.report["error"]["message"]


def test_a_log_on_a_full_disk(ready: Command) -> None:
    """One line says that it is incomplete; the run has its own code."""
    ready.config["logging"] = {"file": "/dev/full", "level": "debug"}
    ready.config["redis"]["url"] = "redis://127.0.0.1:1/0"
    result = ready("run", expect=6)
    assert [line for line in result.err.splitlines() if "incomplete" in line] == [
        "warning: the log /dev/full is incomplete: No space left on device"
    ]
    assert "Traceback" not in result.err


def test_an_unknown_field_in_the_log_s_format(ready: Command) -> None:
    """A configuration error, not a traceback per record."""
    ready.config["logging"] = {"format": "%(asctime)s %(nosuch)s"}
    result = ready("run", expect=2)
    assert "logging.format" in result.report["error"]["message"]
    assert "nosuch" in result.report["error"]["message"]

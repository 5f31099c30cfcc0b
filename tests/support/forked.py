"""`reconcile` as a fork of a process that has imported it.

Most of what a short run costs is Python that starts and imports, 0.3 of 0.4 s of CPU, and what it takes apart at its
end. Everything else is as if a shell had started it: a process of its own with its own environment, directory, streams
and signals; it waits for its threads, does what it has to do at exit, and flushes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import reconcile

READ_WHEN_PYTHON_STARTS = ("PYTHON", "LC_", "LANG")
ORDER_MAX_BYTES = 1 << 17
NUMBER = struct.Struct("=i")
INHERITED = (signal.SIGHUP,)
"""Signals that a process ignores if the one that started it does (nohup)."""


def suits(env: Mapping[str, str]) -> bool:
    """Whether a fork sees this environment as a process that is started would."""
    changed = {name for name in env.keys() | os.environ.keys() if env.get(name) != os.environ.get(name)}
    return hasattr(os, "pidfd_open") and not any(name.startswith(READ_WHEN_PYTHON_STARTS) for name in changed)


class Forked:
    """One such process, to be used like a subprocess.Popen[str] whose output is piped."""

    def __init__(
        self, args: list[str], cwd: Path, env: Mapping[str, str], main: str = "reconcile.cli.entry:main"
    ) -> None:
        """main: what it calls, as module:function; ends by sys.exit."""
        self.args = args
        self.returncode: int | None = None
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        self._status, theirs_status = socket.socketpair()
        self._pipes: dict[BinaryIO, list[bytes]] = {os.fdopen(out, "rb"): [], os.fdopen(err, "rb"): []}
        ignored = [int(number) for number in INHERITED if signal.getsignal(number) is signal.SIG_IGN]
        os.umask(mask := os.umask(0))
        asked = {"args": args, "cwd": str(cwd), "env": dict(env), "ignored": ignored, "main": main, "umask": mask}
        order = json.dumps(asked).encode()
        with theirs_status:
            socket.send_fds(_parent()[0], [order], [theirs_out, theirs_err, theirs_status.fileno()])
        os.close(theirs_out)
        os.close(theirs_err)
        self.pid = self._number()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Everything it prints, once it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for pipe in self._pipes:
                if not pipe.closed:
                    selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(None if until is None else max(0.0, until - time.monotonic()))
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _ in ready:
                    if not (data := os.read(key.fd, 1 << 16)):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                    self._pipes[key.fileobj].append(data)  # type: ignore[index]
        self.wait(None if until is None else max(0.1, until - time.monotonic()))
        out, err = (b"".join(parts).decode() for parts in self._pipes.values())
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, as with subprocess
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        (number,) = NUMBER.unpack(self._status.recv(NUMBER.size))
        assert isinstance(number, int)
        return number


@functools.cache
def _parent() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks, and the socket that it takes orders from; it ends with ours."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
    return ours, process


def _take_orders(control: socket.socket) -> str | None:
    """Fork for each order. In the fork, ready to run: what it is to call; None: no more orders."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    text, fds, _, _ = socket.recv_fds(control, ORDER_MAX_BYTES, 3)
                    if not text:
                        return None
                    pid = os.fork()
                    if pid == 0:
                        _become(order := json.loads(text), *fds)
                        return str(order["main"])
                    out, err, status = fds
                    os.close(out)
                    os.close(err)
                    running[fd := os.pidfd_open(pid)] = pid, socket.socket(fileno=status)
                    running[fd][1].send(NUMBER.pack(pid))
                    selector.register(fd, selectors.EVENT_READ)
                else:
                    pid, asked = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    with asked, contextlib.suppress(BrokenPipeError):
                        asked.send(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _become(order: dict[str, Any], out: int, err: int, status: int) -> None:
    """What exec would have done."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = order["args"]
    os.chdir(order["cwd"])
    os.umask(order["umask"])
    for name in os.environ.keys() - order["env"].keys():
        del os.environ[name]
    os.environ.update(order["env"])
    for number in INHERITED:
        signal.signal(number, signal.SIG_IGN if number in order["ignored"] else signal.SIG_DFL)
    time.tzset()


def _carry_out(main: str) -> int:
    module, _, function = main.partition(":")
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError(f"{main} has returned")


def _end(code: int) -> NoReturn:
    """Python's own end, but for what it takes apart: freeing what was inherited copies every page of it."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_everything() -> None:
    """What a run would import itself, later or never."""
    for module in pkgutil.walk_packages(reconcile.__path__, "reconcile."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    import_everything()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    if (main := _take_orders(control)) is not None:
        control.detach()
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        _end(_carry_out(main))

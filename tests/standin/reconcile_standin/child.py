"""The stand-in as a subprocess."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_START_S = 30


class StandIn:
    """A server process that lives no longer than this one, even when this one is killed.

    Without a data directory it starts empty each time; with one its content survives `stop`, `kill` and `start`.
    """

    def __init__(self, port: int = 0, data_dir: str | None = None, *, password: str | None = None,
                 tick_ms: int = 1000, tls: tuple[str, str] | None = None,
                 max_connections: int = 5000) -> None:  # fmt: skip
        """tls: files of the certificate and its key."""
        self.port = port
        self._data_dir = data_dir
        self._password = password
        self._tick_ms = tick_ms
        self._tls = tls
        self._max_connections = max_connections
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to connect to."""
        secret = f":{self._password}" if self._password else ""
        return f"postgresql://materialize{secret}@127.0.0.1:{self.port}/materialize"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start, and wait until clients may connect; again on the same port."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "reconcile_standin", "--port", str(self.port), "--watch-stdin",
                   "--tick-ms", str(self._tick_ms)]  # fmt: skip
        command += ["--max-connections", str(self._max_connections)]
        if self._data_dir is not None:
            command += ["--data-dir", str(self._data_dir)]
        if self._password is not None:
            command += ["--password", self._password]
        if self._tls is not None:
            command += ["--tls-cert", self._tls[0], "--tls-key", self._tls[1]]
        # The server ends when its stdin does: the pipe closes with this process, however that ends.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith("listening on port "):
            process.kill()
            process.wait()
            raise RuntimeError(f"the stand-in did not start on port {self.port}")
        self._process = process
        self.port = int(line.rpartition(" ")[2])

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.stop()

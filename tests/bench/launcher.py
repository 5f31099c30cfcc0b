"""A small process that starts the measured ones: `python -m tests.bench.launcher`, one JSON request and answer a line.

Linux counts the memory of the process that starts another as memory of the started one until it executes its program.
Started from here a measured peak cannot be less than this process' few MB; started from the benchmark itself it could
not be less than the benchmark's. For the same reason nothing but the standard library may be imported here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def _run(request: dict[str, object]) -> dict[str, object]:
    """Run one program to its end; what it took, children it waited for included."""
    command = [str(part) for part in request["command"]]  # type: ignore[attr-defined]
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(request["out"]), writing, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(request["err"]), writing, 0o600),
    ]
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(int(request["limit_s"]))  # type: ignore[call-overload]
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic()
    signal.alarm(0)
    return {
        "started": started,
        "seconds": ended - started,
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "code": os.waitstatus_to_exitcode(status),
    }


def main() -> None:
    """Serve requests until stdin ends."""
    for line in sys.stdin:
        try:
            answer = _run(json.loads(line))
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

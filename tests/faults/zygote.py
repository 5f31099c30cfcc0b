"""A process that has everything imported and forks a run on demand: {"mode", "options", "limits", …} a line.

Answers with the child's process id, and with how it ended. Forking costs a tenth of starting Python, so that hundreds
of real processes can be killed in seconds.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from reconcile.config import address
from reconcile.config.settings import LimitSettings, Settings, ViewSettings
from reconcile.runs import work
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop


def run(order: dict[str, Any]) -> int:
    """One run; its exit code."""
    assert work
    settings = Settings(
        materialize=address.materialize(order["source"]),
        redis=address.redis(order["redis"]),
        views=(ViewSettings(**order["view"]),),
        limits=LimitSettings(**order["limits"]),
    )
    return int(execute(settings, Request(mode=order["mode"], **order["options"]), Stop()).exit_code)


def main() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(run(order))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

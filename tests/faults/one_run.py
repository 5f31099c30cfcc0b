"""One run as a process of its own, with limits too small for a configuration file: a `main` for `Forked`."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from reconcile.config import address
from reconcile.config.settings import LimitSettings, Settings, ViewSettings
from reconcile.runs.entry import execute
from reconcile.runs.request import Request
from reconcile.stop import Stop


def main() -> NoReturn:
    """Carry out the argument, in JSON: {"source", "redis", "view", "mode", "options", "limits"}. Exit code as ever."""
    order = json.loads(sys.argv[1])
    settings = Settings(
        materialize=address.materialize(order["source"]),
        redis=address.redis(order["redis"]),
        views=(ViewSettings(**order["view"]),),
        limits=LimitSettings(**order["limits"]),
    )
    sys.exit(int(execute(settings, Request(mode=order["mode"], **order["options"]), Stop()).exit_code))

"""A host whose clock is wrong, for commands that Python itself starts."""

from __future__ import annotations

import os
from pathlib import Path

_SITE = """
import os, time
now, now_ns, ahead_s = time.time, time.time_ns, int(os.environ["AHEAD_S"])
time.time = lambda: now() + ahead_s
time.time_ns = lambda: now_ns() + ahead_s * 10**9
"""


def ahead(directory: Path, seconds: int) -> dict[str, str]:
    """The environment of a host whose clock is ahead. directory: for the module that Python finds there."""
    (directory / "sitecustomize.py").write_text(_SITE)
    return {"PYTHONPATH": os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]), "AHEAD_S": str(seconds)}

"""Something that goes on beside a test, and waiting for what others do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LONGEST_S = 60.0
"""How long it may take to notice that it is over."""
PATIENCE_S = 100.0
"""A Sentinel that got no time for two seconds does nothing for the next thirty."""


def eventually(true: Callable[[], bool], what: str = "") -> None:
    """Wait until it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Work in a thread of its own, until the event is set that it is given: at the end of the block."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LONGEST_S)

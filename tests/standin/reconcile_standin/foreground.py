"""The stand-in in the foreground: until a signal, or the end of stdin."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

from reconcile_standin.server import Server, Settings

_STOPS = {signal.SIGTERM, signal.SIGINT}


def serve(settings: Settings, *, watch_stdin: bool) -> None:
    """Serve until SIGTERM or SIGINT; says on stdout which port it listens on once clients may connect."""
    # Rows by the hundred thousand are no garbage: looking for it among them took a third of the time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    # Blocked in every thread and waited for, not handled: Python runs a handler between two instructions of the main
    # thread, and a signal that comes just before that thread blocks in accept() would wait for the next client.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    server = Server(settings)
    server.start()
    if watch_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.stdout.write(f"listening on port {server.port}\n")
    sys.stdout.flush()
    signal.sigwait(_STOPS)
    server.stop()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)

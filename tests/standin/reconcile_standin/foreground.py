"""The stand-in in the foreground: until a signal, or the end of stdin."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

from reconcile_standin.server import Server, Settings


def serve(settings: Settings, *, watch_stdin: bool) -> None:
    """Serve until SIGTERM or SIGINT; says on stdout which port it listens on once clients may connect."""
    # Rows by the hundred thousand are no garbage: looking for it among them took a third of the time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    server = Server(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def at_stop() -> None:
        stop.wait()
        server.stop()

    def at_end_of_stdin() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=at_stop, daemon=True).start()
    if watch_stdin:
        threading.Thread(target=at_end_of_stdin, daemon=True).start()
    sys.stdout.write(f"listening on port {server.port}\n")
    sys.stdout.flush()
    server.run()

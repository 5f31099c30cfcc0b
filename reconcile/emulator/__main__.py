"""python -m reconcile.emulator"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from reconcile.emulator.server import Settings, serve


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reconcile.emulator", description="A stand-in for Materialize.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6875, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--data-dir", help="keep the content there; without it the emulator starts empty")
    parser.add_argument("--tick-ms", type=int, default=1000, help="how often idle time passes (default: %(default)s)")
    parser.add_argument("--password", help="ask clients for this password")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--watch-stdin", action="store_true", help="end when stdin does")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM, SIGINT, or the end of stdin."""
    arguments = _arguments()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if arguments.watch_stdin:

        def watch() -> None:
            while os.read(0, 4096):
                pass
            stop.set()

        threading.Thread(target=watch, daemon=True).start()

    def ready(port: int) -> None:
        sys.stdout.write(f"listening on port {port}\n")
        sys.stdout.flush()

    serve(
        Settings(
            host=arguments.host,
            port=arguments.port,
            data_dir=arguments.data_dir,
            tick_ms=arguments.tick_ms,
            password=arguments.password,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
        ),
        ready,
        stop,
    )


if __name__ == "__main__":
    main()

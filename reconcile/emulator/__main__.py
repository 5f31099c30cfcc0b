"""python -m reconcile.emulator"""

from __future__ import annotations

import argparse

from reconcile.emulator.foreground import serve


def main() -> None:
    """Serve until SIGTERM, SIGINT, or the end of stdin."""
    parser = argparse.ArgumentParser(prog="python -m reconcile.emulator", description="A stand-in for Materialize.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6875, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--data-dir", help="keep the content there; without it the emulator starts empty")
    parser.add_argument("--tick-ms", type=int, default=1000, help="how often idle time passes (default: %(default)s)")
    parser.add_argument("--password", help="ask clients for this password")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--watch-stdin", action="store_true", help="end when stdin does")
    serve(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()

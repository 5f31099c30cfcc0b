"""python -m reconcile_standin: the command `reconcile emulator`, wherever `reconcile` is not installed."""

from __future__ import annotations

from reconcile_standin.commands import emulator

if __name__ == "__main__":
    emulator(prog_name="python -m reconcile_standin")

"""Refuse suspicious mass deletes: an empty but successful read must not empty the cache."""

from __future__ import annotations

from reconcile.errors import SafetyStop

HANDFUL = 10
"""Deleting this many keys is never suspicious."""


def suspicious(deletes: int, owned: int, max_fraction: float) -> bool:
    """Whether deleting that many of the owned keys needs a human."""
    return deletes > HANDFUL and deletes > max_fraction * owned


def mass_delete(deletes: int, owned: int, max_fraction: float, view: str) -> SafetyStop:
    """The error that withholds deletes, with the command that allows them."""
    return SafetyStop(
        f"{deletes} of {owned} keys would be deleted, more than max_delete_fraction = {max_fraction:g} allows; "
        "deletes are withheld and the checkpoint stays",
        hint=f"if the view is right, run: reconcile snapshot --view {view} --allow-deletes",
        view=view,
    )

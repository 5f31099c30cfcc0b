"""Which deletes of a snapshot need consent: those that the guard objects to, and those of unexplained keys."""

from __future__ import annotations

from msgspec.structs import replace

from reconcile.compare.surplus import Rule
from reconcile.core import guard, pending
from reconcile.core.changes import name_of
from reconcile.core.state import Identity, State
from reconcile.errors import SafetyStop
from reconcile.runs.context import ViewRun
from reconcile.runs.total import Total


def guarded(run: ViewRun, identity: Identity, deletes: int, deleted: int, before: int, after: int) -> SafetyStop | None:
    """Return the error for deletes that the guard withholds, if it does. deleted: keys that have gone early. before,
    after: number of keys of the view."""
    if not deletes or not run.guard(identity).objects(deletes + deleted, before, after):
        return None
    run.report.deletes_withheld += deletes
    return guard.mass_delete(deletes, before, run.view.max_delete_fraction, run.view.name)


def unexplained(
    run: ViewRun, base: State, total: Total, number: int, rule: Rule, *, asked: bool
) -> tuple[SafetyStop | None, State]:
    """Return the error for so many unexplained keys, if they need consent. A handful does not, unless a human was asked
    for some: it is noted in the state, which is returned too."""
    if not number:
        return None, base
    known = rule is Rule.MANIFEST and not pending.began_anew(base) and total.is_named
    left = guard.handful_left(base.removed, run.now_ms()) if known and not asked else 0
    if number <= left:
        every = ", ".join([name_of(name) for _, found in total.parts for name in found.unexplained_names])
        run.report.warnings.append(f"drift: removed keys that nothing shows this view to have written: {every}")
        return None, replace(base, removed=guard.note_removed(base.removed, number, run.now_ms()))
    run.report.deletes_withheld += number
    names = total.some_unexplained() or base.surplus_names
    return guard.consent_needed(number, [name_of(name) for name in names], run.view.name), base

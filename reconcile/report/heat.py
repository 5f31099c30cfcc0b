"""The heat map of an audit: one cell per slice of the key space, showing when it was compared and whether it drifts."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from reconcile.report.audit import MAX_SLICES
from reconcile.report.page import ago, escaped, number
from reconcile.report.run_report import ViewReport

HOUR_MS = 3_600_000
AGES = ((HOUR_MS, "within the hour"), (24 * HOUR_MS, "within a day"), (168 * HOUR_MS, "within a week"))
"""Age up to → legend. Older cells form another class, and so do those never compared."""
OLDER, NEVER = len(AGES), len(AGES) + 1
DRIFTS = ((1, "1 key differs"), (10, "2–10 keys differ"))
"""Number of keys up to → legend. More form another class."""
_SIZE, _GAP = 12, 2


class Cell(Struct, frozen=True):
    """The buckets b with b mod n = i, where n is the number of cells."""

    i: int
    age: int
    """Index into AGES, OLDER or NEVER."""
    drift: int
    """Number of keys that differ."""
    compared_ms: int | None
    by: str


def cells_of(view: ViewReport, now_ms: int) -> list[Cell]:
    """Return one cell per slice, at most MAX_SLICES; none if nothing is known."""
    audit, drift = view.audit, view.drift
    if audit is None or drift is None:
        return []
    coverage = audit.coverage
    part, parts = _subset(audit.subset)
    n = max(drift.heat.slices, coverage.slices if coverage else 0, parts, min(view.buckets or 1, MAX_SLICES))
    compared = {one.slice: (one.at_ms, one.by) for one in coverage.compared} if coverage else {}
    found = []
    for i in range(n):
        at_ms, by = compared.get(i % coverage.slices, (None, "")) if coverage else (None, "")
        if i % parts == part and not audit.fast:
            at_ms, by = now_ms, "this audit"
        keys = drift.heat.drift.get(i, 0)
        found.append(Cell(i, _age(at_ms, now_ms), keys, at_ms, by))
    return found


def _subset(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    return (int(i), int(n)) if i.isdecimal() and n.isdecimal() and 0 < int(n) <= MAX_SLICES else (0, 1)


def _age(at_ms: int | None, now_ms: int) -> int:
    if at_ms is None:
        return NEVER
    return next((n for n, (limit, _) in enumerate(AGES) if now_ms - at_ms < limit), OLDER)


def _level(keys: int) -> int:
    return next((n for n, (limit, _) in enumerate(DRIFTS, 1) if keys <= limit), len(DRIFTS) + 1)


def picture(cells: list[Cell], now_ms: int) -> str:
    """Return the map with its legend as markup; empty if all cells are the same, which a sentence says better."""
    if len({(cell.age, cell.drift) for cell in cells}) < 2:
        return ""
    columns = max(2, min(64, 1 << (len(cells).bit_length() // 2 + 1)))
    step = _SIZE + _GAP
    width, height = columns * step, -(-len(cells) // columns) * step
    shapes = list(_ages(cells, columns, step)) + [
        _drifted(cell, len(cells), columns, step, now_ms) for cell in cells if cell.drift
    ]
    drifting = sum(1 for cell in cells if cell.drift)
    label = f"{len(cells)} slices, {drifting} of them with drift"
    return (
        f'<svg class="heat" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'style="max-width:{min(960, width * 2)}px">{"".join(shapes)}</svg>{_legend(cells)}'
    )


def _ages(cells: list[Cell], columns: int, step: int) -> Iterator[str]:
    """Draw one path per age, which keeps a thousand cells to a few kilobytes."""
    for age in range(NEVER + 1):
        corners = [
            (cell.i % columns * step, cell.i // columns * step) for cell in cells if cell.age == age and not cell.drift
        ]
        if corners:
            inset = 0.5 if age == NEVER else 0
            side = _SIZE - 2 * inset
            path = "".join(f"M{x + inset:g} {y + inset:g}h{side:g}v{side:g}h-{side:g}z" for x, y in corners)
            yield f'<path class="{_age_class(age)}" d="{path}"/>'


def _drifted(cell: Cell, n: int, columns: int, step: int, now_ms: int) -> str:
    """Draw a cell with drift; it is also crossed out, so as not to depend on colour."""
    x, y = cell.i % columns * step, cell.i // columns * step
    when = "" if cell.compared_ms is None else f", compared {ago(cell.compared_ms, now_ms)} by {cell.by}"
    a, b = _SIZE * 0.3, _SIZE * 0.7
    title = f"slice {cell.i}/{n}: {number(cell.drift)} keys differ{when}"
    return (
        f'<g><title>{escaped(title)}</title><rect class="d{_level(cell.drift)}" x="{x}" y="{y}" '
        f'width="{_SIZE}" height="{_SIZE}" rx="2"/><path class="dx" d="M{x + a:g} {y + a:g}L{x + b:g} {y + b:g}'
        f'M{x + b:g} {y + a:g}L{x + a:g} {y + b:g}"/></g>'
    )


def _age_class(age: int) -> str:
    return "cn" if age == NEVER else f"c{age}"


def _legend(cells: list[Cell]) -> str:
    names = [(_age_class(n), text) for n, (_, text) in enumerate(AGES)]
    names += [(_age_class(OLDER), "longer ago"), (_age_class(NEVER), "never compared")]
    used = {_age_class(cell.age) for cell in cells if not cell.drift} | {
        f"d{_level(cell.drift)}" for cell in cells if cell.drift
    }
    names += [(f"d{n}", text) for n, (_, text) in enumerate(DRIFTS, 1)] + [
        (f"d{len(DRIFTS) + 1}", "more than 10 keys differ")
    ]
    entries = (
        f'<span><svg viewBox="0 0 12 12" aria-hidden="true">'
        f'<rect class="{name}" x=".5" y=".5" width="11" height="11" rx="2"/></svg>{text}</span>'
        for name, text in names
        if name in used
    )
    n = number(len(cells))
    return (
        f'<p class="key">{"".join(entries)}</p><p class="soft small">Each square is one of {n} slices of the key space '
        f"(crc32(key) mod {n}), from the top left to the right; × marks drift.</p>"
    )

"""The table as text for a terminal and as Markdown."""

from __future__ import annotations

from typing import Any

from tests.bench.figures import Figure

HEAD = ("work", "stand-in", "real", "", "goal", "", "seconds", "user CPU", "peak MB", "the source alone")
COUNTER_HEAD = {
    "changed": "changed keys",
    "config": "fingerprints from",
    "rows_read": "rows read",
    "puts": "puts",
    "source_statements": "SQL statements",
    "redis_commands": "Redis commands",
    "redis_bytes_in": "bytes to Redis",
    "redis_bytes_out": "bytes from Redis",
    "seconds": "seconds",
}
FROM = {"plain": "GROUP BY", "companion": "companion view"}


def cells(figure: Figure, real: bool, others: dict[str, float]) -> list[str]:
    """One row of the table. real: which source it is of; others: figures of the other source, by key."""
    mark = {True: "met", False: "missed", None: ""}[figure.met]
    if figure.real_only and not real:
        mark = "real only"
    own, other = number(figure.value), others.get(figure.key)
    shown = "" if other is None else number(other)
    return [
        figure.label,
        *((shown, own) if real else (own, shown)),
        figure.against,
        "" if figure.goal is None else f"≤ {figure.goal:g}",
        mark,
        "" if figure.seconds is None else f"{figure.seconds:.2f}",
        "" if figure.user_s is None else f"{figure.user_s:.2f}",
        "" if figure.peak_mb is None else f"{figure.peak_mb:.0f}",
        figure.bare,
    ]


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def counter_cells(entry: dict[str, Any]) -> list[str]:
    """One row of the counters table."""
    shown = []
    for key in COUNTER_HEAD:
        value = entry[key]
        shown.append(FROM[value] if key == "config" else f"{value:.2f}" if key == "seconds" else f"{value:,}")
    return shown


def aligned(head: list[str], rows: list[list[str]]) -> str:
    """Columns for a terminal: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    numeric = [i for i in range(1, len(head)) if all(not row[i] or row[i][-1].isdigit() for row in rows)]
    lines = []
    for row in [head, *rows]:
        shown = [row[i].rjust(w) if i in numeric else row[i].ljust(w) for i, w in enumerate(widths)]
        lines.append("  ".join(shown).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """The same for docs/performance.md."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])

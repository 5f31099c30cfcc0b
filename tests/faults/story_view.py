"""What a story's view is at the source and in the configuration, and by that alone what Redis should hold."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any

Content = dict[bytes, Any]
Row = tuple[str, str, str | None, int | None, Any]
"""part, key, value, n, until: as in the table."""

COLUMNS = ("part", "key", "value", "n", "until")
FORMS = {
    "one": (("key",), ("",)),
    "two": (("part", "key"), (":", "")),
    "turned": (("key", "part"), (":", "")),
    "template": (("part", "key"), ("|", ":end")),
}
"""Columns and literals of the Redis key."""
KINDS = {
    "as it is": "SELECT part, key, value, {n} AS n, until FROM s",
    "other values": "SELECT part, key, value || '{number}' AS value, {n} AS n, until FROM s",
    "other keys": "SELECT part, 'z{number}' || key AS key, value, {n} AS n, until FROM s",
    "few rows": "SELECT part, key, value, {n} AS n, until FROM s WHERE right(key, 1) < '3'",
    "more rows": "SELECT part, 'y' || key || g AS key, value, {n} AS n, until FROM s, generate_series(1, 3) AS g",
}
"""The query of a view."""
TYPES = {"integer": "n", "text": "n::text", "numeric": "n::numeric"}
"""The type of the view's column n."""


@dataclass(frozen=True)
class SourceView:
    """One of the views that take each other's place."""

    number: int = 0
    kind: str = "as it is"
    type: str = "integer"

    @property
    def name(self) -> str:
        return f"w{self.number}"

    @property
    def sql(self) -> str:
        return KINDS[self.kind].format(n=TYPES[self.type], number=self.number)


@dataclass(frozen=True)
class Configured:
    """The configuration. `CHOICES` has what may change."""

    layout: str = "string"
    form: str = "one"
    values: tuple[str, ...] = ("value",)
    """Columns of the value; of the layout string, the first."""
    expires: bool = False
    ownership: str = "prefix"
    range: str = "p:"
    """The prefix, where the view has one."""
    timed: bool = False
    """Whether there is a timestamp key. Then there are no shards."""
    buckets: int = 0
    """0: chosen by rows."""
    shards: int = 1
    fraction: float = 0.5
    batch: int = 50_000
    compare_every_s: float | None = 86_400.0
    memory_max: int = 1 << 25
    view: SourceView = SourceView()
    companion: str | None = None

    @property
    def prefix(self) -> str:
        return self.range if self.ownership == "prefix" else ""

    @property
    def value_columns(self) -> tuple[str, ...]:
        return self.values[:1] if self.layout == "string" else self.values

    @property
    def mapping(self) -> tuple[Any, ...]:
        """By what the manifest's keys and values are known: `mapping` in docs/format.md."""
        names = () if self.layout == "string" else self.value_columns
        types = self.view.type if self.layout == "json" and "n" in names else ""
        return self.layout, FORMS[self.form][1], names, self.expires, types

    @property
    def source(self) -> tuple[Any, ...]:
        """Where keys and values come from: `source` there."""
        return self.view, self.form, self.value_columns, self.mapping

    @property
    def columns(self) -> tuple[str, ...]:
        """What the query gives: for several forms of keys, and for all layouts, the same."""
        used = {*FORMS[self.form][0], *self.value_columns, *(["until"] if self.expires else [])}
        return tuple(name for name in COLUMNS if name in used)

    def key_of(self, row: Row) -> bytes:
        texts = dict(zip(COLUMNS, row, strict=True))
        columns, literals = FORMS[self.form]
        key = self.prefix
        for column, literal in zip(columns, literals, strict=True):
            text = texts[column]
            if column != columns[-1]:
                text = text.replace("%", "%25").replace(literal[0], f"%{ord(literal[0]):02X}")
            key += text + literal
        return key.encode()

    def value_of(self, row: Row) -> Any:
        """As `read` shows it. None: Redis holds no such row."""
        columns = dict(zip(COLUMNS, row, strict=True))
        if columns["n"] is not None:
            shown = self.layout == "json" and self.view.type != "text"
            columns["n"] = int(columns["n"]) if shown else str(columns["n"])
        found = {name: columns[name] for name in self.value_columns}
        if self.layout == "string":
            return found[self.value_columns[0]]
        if self.layout == "json":
            return found
        return {name: text for name, text in found.items() if text is not None} or None

    def read(self, value: Any) -> Any:
        """Show a value of this layout as `value_of` does; anything else as it is."""
        if self.layout == "hash":
            pairs = [part.decode() for part in value] if isinstance(value, list) else []
            return dict(zip(pairs[::2], pairs[1::2], strict=True)) if pairs else value
        try:
            return json.loads(value) if self.layout == "json" else value.decode()
        except (ValueError, TypeError, AttributeError):
            return value


CHOICES: dict[str, list[Any]] = {
    "layout": ["string", "json", "hash"],
    "form": ["one", *FORMS],
    "values": [("value",), ("n",), ("value", "n")],
    "expires": [False, True],
    "buckets": [0, 16, 64, 1024],
    "shards": [1, 1, 2, 4],
    "fraction": [0.1, 0.5, 1.0],
    "batch": [1, 3, 50_000],
    "compare_every_s": [None, 1.0, 86_400.0],
    "memory_max": [3_000, 8_000, 1 << 25],
}
"""What changes between two runs, beside view and companion view. Of few buckets most change, of many few: records are
written as a whole, or one by one."""
LIMITS = ("fraction", "batch", "compare_every_s", "memory_max")
"""A story begins with their defaults."""
RANGES = ["p:", "p:", "{p}:", "{x", "g*[l]o?b\\:"]
"""Prefixes. With a hash tag all keys of the view are on one node of a cluster, and the others have none."""


def first(rng: random.Random, *, clustered: bool) -> Configured:
    """Return what a story begins with."""
    drawn = {name: rng.choice(choices) for name, choices in CHOICES.items() if name not in LIMITS}
    owned = (
        ["prefix", "prefix", "dedicated"] if clustered else ["prefix", "prefix", "prefix", "remembered", "dedicated"]
    )
    timed = rng.random() < 0.4
    return Configured(
        **{**drawn, "shards": 1} if timed else drawn, ownership=rng.choice(owned), range=rng.choice(RANGES), timed=timed
    )


def changed(configured: Configured, what: str, rng: random.Random) -> Configured:
    """Return the configuration with something else in one place."""
    others = [one for one in CHOICES[what] if one != getattr(configured, what)]
    if what == "shards" and configured.timed:
        return configured
    return replace(configured, **{what: rng.choice(others)})

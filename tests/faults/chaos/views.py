"""One view: its rows, its definition, its configuration, and what Redis should hold of it."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from psycopg import sql

MARK = "hush-row"
"""In every value that is not short: nothing that is printed may have it."""
VALUES = [
    None, "", " ", "\\N", "\\", "a\tb\nc\rd", "'; DROP TABLE t; --", '"quoted" {"a": 1}', "é☃🎉", "\x1b[31m", "%s $1",
    *[f"{MARK} {n}" for n in range(8)], f"{MARK} " + "x" * 5000,
]  # fmt: skip
PARTS = ["a", "x:y", "5%", "é|3", "{tag}", ""]
KEYS: dict[str, list[str]] = {
    "text": ["", " ", "*", "k*", "[a]", "{x}", "}{", "%", "%25", ":", "a:b", "\\N", "a\tb", "a\nb", "é☃", "k" * 300]
    + [f"k{n}" for n in range(60)],
    "int": [str(n) for n in range(-20, 50)],
    "date": [
        f"{year}-02-{day:02}{era}"
        for year, era in (("0044", " BC"), ("0001", ""), ("1969", ""), ("2026", ""), ("12026", ""))
        for day in range(1, 13)
    ],
}
YEAR_S = 31_556_952
UNTIL_S = [None, None, None, -2100 * YEAR_S, -60 * YEAR_S, -30, 4, 3600, 500 * YEAR_S, 10_000 * YEAR_S]
"""When rows expire, from now."""
SOON_S = 30
FILLED, MANY = "filled", 2500
Content = dict[bytes, tuple[Any, int | None]]
"""Redis key → what it holds, and when it expires in milliseconds, if it does."""


@dataclass
class View:
    """What a seed has drawn of it, and what has become of it since."""

    name: str
    schema: str
    namespace: str
    ownership: str
    """prefix, template, remembered or dedicated."""
    layout: str
    composite: bool
    key_type: str
    expires: bool
    companion: bool
    """Whether it may have a companion view."""
    history: str
    buckets: int | None
    timestamp_key: str | None
    generation: int = 0
    exists: bool = True
    parts: dict[str, str] = field(default_factory=dict)
    """Of each key that ever was: a key of several columns that ends in the same column is not unique otherwise."""
    named: bool = False
    """Whether its companion view is configured; it may be missing."""

    # -- configuration -------------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """What all of its keys begin with."""
        return "" if self.ownership in ("remembered", "dedicated") else f"{self.name}:"

    @property
    def relation(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def companion_name(self) -> str:
        return f"{self.relation}_companion"

    @property
    def wide(self) -> bool:
        """Whether its value has several columns."""
        return self.layout != "string"

    def entry(self) -> dict[str, Any]:
        """Its place in the list of views."""
        made: dict[str, Any] = {"name": self.name, "relation": self.relation, "layout": self.layout}
        made |= {"value": "*" if self.wide else "a", "max_delete_fraction": 0.5}
        if self.ownership == "template":
            made["key_template"] = self.name + (":{part}/{key}.end" if self.composite else ":{key}.end")
        else:
            made["key"] = ["part", "key"] if self.composite else "key"
            if self.prefix:
                made["key_prefix"] = self.name
        optional = {
            "expires_at": "until" if self.expires else None, "mz_timestamp_key": self.timestamp_key,
            "companion": self.companion_name if self.named else None,
            "buckets": None if self.named else self.buckets,
        }  # fmt: skip
        return made | {name: value for name, value in optional.items() if value is not None}

    # -- the source ----------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """Of the view, as the relation has them."""
        extra = ["c"] if self.wide and self.generation % 2 else []
        return [
            *(["part"] if self.composite else []), "key", "a", *(["b"] if self.wide else []), *extra,
            *(["until"] if self.expires else []),
        ]  # fmt: skip

    def create(self, execute: Callable[[str], Any]) -> None:
        """The view, over its table. Every generation has other values, every second one a column more."""
        shown = {"a": f"a || '{self.generation}' AS a" if self.generation else "a", "c": "b + 1 AS c"}
        listed = ", ".join(shown.get(name, name) for name in self.columns)
        execute(f"CREATE MATERIALIZED VIEW {self.relation} AS SELECT {listed} FROM {self.relation}_rows")
        self.retain(execute)
        self.exists = True

    def retain(self, execute: Callable[[str], Any]) -> None:
        """As much history as it keeps now."""
        execute(f"ALTER MATERIALIZED VIEW {self.relation} SET (RETAIN HISTORY FOR '{self.history}')")

    def create_table(self, execute: Callable[[str], Any]) -> None:
        execute(f"CREATE TABLE {self.relation}_rows (part text, key {self.key_type}, a text, b int, until timestamptz)")

    def drop(self, execute: Callable[[str], Any]) -> None:
        """With its companion view, which goes too."""
        execute(f"DROP MATERIALIZED VIEW {self.relation} CASCADE")
        self.exists = False

    def put(self, execute: Callable[[str], Any], rng: random.Random, count: int) -> None:
        """Insert or update rows."""
        names = rng.sample(KEYS[self.key_type], min(count, len(KEYS[self.key_type])))
        rows = []
        for name in names:
            part = self.parts.setdefault(name, rng.choice(PARTS))
            after = rng.choice(UNTIL_S)
            until = "NULL" if after is None else f"to_timestamp({int(time.time()) + after})"
            rows.append(f"({_text(part)}, {_text(name)}::{self.key_type}, {_text(rng.choice(VALUES))}, "
                        f"{rng.choice(['NULL', *range(-3, 4)])}, {until})")  # fmt: skip
        self.remove(execute, names)
        execute(f"INSERT INTO {self.relation}_rows VALUES {', '.join(rows)}")

    def fill(self, execute: Callable[[str], Any]) -> None:
        """More rows than fit into a page."""
        made = {"int": "1000 + n", "text": "'n' || n", "date": "to_timestamp(86400.0 * n)::date"}[self.key_type]
        execute(f"DELETE FROM {self.relation}_rows WHERE part = '{FILLED}'")
        execute(
            f"INSERT INTO {self.relation}_rows SELECT '{FILLED}', {made}, '{MARK} ' || n, n, NULL "
            f"FROM generate_series(1, {MANY}) AS n"
        )

    def change_all(self, execute: Callable[[str], Any]) -> None:
        """Every row at one time."""
        execute(f"UPDATE {self.relation}_rows SET a = a || '+', b = -b")

    def thin(self, execute: Callable[[str], Any]) -> None:
        """Most of what `fill` has made goes again."""
        execute(f"DELETE FROM {self.relation}_rows WHERE part = '{FILLED}' AND b % 10 <> 0")

    def remove(self, execute: Callable[[str], Any], names: list[str]) -> None:
        listed = ", ".join(f"{_text(name)}::{self.key_type}" for name in names)
        execute(f"DELETE FROM {self.relation}_rows WHERE key IN ({listed})")

    def settle_times(self, execute: Callable[[str], Any]) -> None:
        """No row is about to expire while somebody compares."""
        now = int(time.time())
        execute(
            f"UPDATE {self.relation}_rows SET until = NULL "
            f"WHERE until > to_timestamp({now - 2}) AND until < to_timestamp({now + SOON_S})"
        )

    # -- what Redis should hold ----------------------------------------------------------------------------------

    def wanted(self, execute: Callable[[str], list[tuple[Any, ...]]], as_of: int | None = None) -> Content:
        """Read by plain SQL, of now or of a time; rows that have expired are left out."""
        texts = [f"{name}::text" for name in self.columns if name != "until"]
        texts += ["extract(epoch FROM until)::text"] if self.expires else []
        found: Content = {}
        time_of = "" if as_of is None else f" AS OF {as_of}"
        for row in execute(f"SELECT {', '.join(texts)} FROM {self.relation}{time_of}"):
            fields = dict(zip(self.columns, row, strict=True))
            until = fields.pop("until", None)
            expires_ms = None if until is None else int(Decimal(until) * 1000)
            key = self._key(fields.pop("part", ""), fields.pop("key"))
            value = self._value(fields)
            if value is not None and (expires_ms is None or expires_ms > time.time() * 1000):
                assert key not in found
                found[key] = value, expires_ms
        return found

    def _key(self, part: str, key: str) -> bytes:
        mark, end = ("/", ".end") if self.ownership == "template" else (":", "")
        escaped = part.replace("%", "%25").replace(mark, f"%{ord(mark):02X}")
        return (self.prefix + (escaped + mark if self.composite else "") + key + end).encode()

    def _value(self, fields: dict[str, Any]) -> Any:
        if self.layout == "json":
            numbers = {name: int(text) for name, text in fields.items() if name != "a" and text is not None}
            return fields | numbers
        if self.layout == "string":
            return None if fields["a"] is None else fields["a"].encode()
        return {name.encode(): text.encode() for name, text in fields.items() if text is not None} or None

    def read(self, value: Any) -> Any:
        """What Redis holds under a key of this view, to be compared with `wanted`."""
        if self.layout == "hash" and isinstance(value, list):
            return dict(zip(value[::2], value[1::2], strict=True))
        if self.layout == "json":
            with contextlib.suppress(ValueError, TypeError):
                return json.loads(value)
        return value


def draw_views(rng: random.Random, schema: str, *, cluster: bool, sharded: bool) -> list[View]:
    """One view that has the database to itself, or a few that share it. One without prefix has a namespace, and so a
    file, of its own: others beside it are refused."""
    alone = rng.random() < 0.15
    ownerships = ["dedicated"] if alone else rng.choices(["prefix", "template"], k=rng.choice([1, 1, 2, 3]))
    spaces = rng.choice([[""], [""], ["blue"], ["", "blue"]])
    namespaces = [spaces[number % len(spaces)] for number in range(len(ownerships))]
    if not cluster and not alone and rng.random() < 0.3:
        ownerships.append("remembered")
        namespaces.append("green")
    views = []
    for number, (ownership, namespace) in enumerate(zip(ownerships, namespaces, strict=True)):
        views.append(
            View(
                name=f"v{number}",
                schema=schema,
                namespace=namespace,
                ownership=ownership,
                layout=rng.choice(["string", "string", "json", "hash"]),
                composite=rng.random() < 0.4,
                key_type=rng.choice(["text", "text", "int", "date"]),
                expires=rng.random() < 0.4,
                companion=rng.random() < 0.3,
                history=rng.choice(["1s", "1hr", "1hr", "5s"]),
                buckets=rng.choice([None, 16, 64]),
                timestamp_key=f"time of {number}" if not sharded and rng.random() < 0.3 else None,
            )
        )
    return views


def _text(value: str | None) -> str:
    return "NULL" if value is None else sql.Literal(value).as_string()

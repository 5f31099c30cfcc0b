"""The SQL we send. The user's query is `q`; everything else is built around it.

    mapped        the columns that make a row, as RowForm expects them: SELECT key, value::text FROM (q)
    fingerprints  the number of rows and the sum of their hashes, as the source computes them, GROUP BY bucket
    within        limits `mapped` to chosen buckets, by byte mask

For a shard, `q` is limited to the shard's rows, except in statements about the plan and the times.

Every statement casts to text in SQL, so that a value has one text form: otherwise a boolean would be `true` in one
statement and `t` in another.
"""

from __future__ import annotations

from msgspec import Struct

from reconcile.core.digest import mask_of
from reconcile.core.framing import RowForm
from reconcile.core.keys import KeyShape
from reconcile.core.shards import WHOLE, Shard
from reconcile.core.sql import identifier as identifier  # exported from here too
from reconcile.core.times import Frontier

BYTEA, TEXT = 17, 25
FLOATS = (700, 701)
PRINTED_AS_CAST = frozenset({20, 21, 23, BYTEA, TEXT, 1043, 1082, 2950, 3802, 16460, 16462, 16464})
"""Types that a SUBSCRIBE prints as a cast to text does (or, if bytea, as the reader expects): integers, text, varchar,
date, uuid, jsonb. A boolean, for one, is `t` here and `true` there.
"""


class Column(Struct, frozen=True):
    """One result column: name and type oid."""

    name: str
    oid: int


def literal(text: str) -> str:
    """Return a SQL string literal. standard_conforming_strings is on in Materialize."""
    return "'" + text.replace("'", "''") + "'"


def bytes_literal(data: bytes) -> str:
    """Return a SQL bytea literal."""
    return f"'\\x{data.hex()}'::bytea"


def describe(sql: str) -> str:
    """Return a query with the columns of `sql` and no rows; Materialize reduces it to a constant."""
    return f"SELECT * FROM ({sql}) AS q WHERE false LIMIT 0"


def current_of(sql: str) -> str:
    """Return a statement that gives since, upper, the present time and the objects read, without running anything."""
    return f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM ({sql}) AS q"


def plan_of(sql: str) -> str:
    """Return a statement for the query's plan. Unlike EXPLAIN TIMESTAMP it shows plain views, which have no frontier.

    As JSON, since the text may only count the rows of a constant relation (sqllogictest/explain/default.slt). Without
    fast path, since that has the present time in place of mz_now() (adapter/src/optimize/peek.rs).
    """
    return f"EXPLAIN OPTIMIZED PLAN WITH (NO FAST PATH) AS JSON FOR SELECT * FROM ({sql}) AS q"


class Mapping(Struct, frozen=True):
    """How the query's columns become Redis keys and values. Built by `map_columns`."""

    sql: str
    key: KeyShape
    keys: tuple[Column, ...]
    """The columns of the key, in order."""
    values: tuple[Column, ...]
    layout: str = "string"
    expires_at: Column | None = None
    parts: int = 1
    """Number of results in which the view is read: Materialize limits the size of each (max_query_result_size)."""
    shard: Shard = WHOLE
    """Only its rows are read."""
    in_order: bool = False
    """Whether the query's columns are those of the key and the values, in this order."""

    @property
    def source(self) -> str:
        """What statements about rows read FROM: the query, limited to the shard."""
        if self.shard == WHOLE:
            return f"({self.sql}) AS q"
        return f"(SELECT * FROM ({self.sql}) AS q WHERE {self.part_sql(self.shard.i, self.shard.n)}) AS q"

    @property
    def key_sql(self) -> str:
        """Expression for the exact Redis key: text, or bytea if the key column is."""
        return self._key_behind(self.key.prefix)

    def _key_behind(self, prefix: str) -> str:
        """Return an expression for the Redis key with another prefix. The reader adds the real one, as each || takes
        time per row.
        """
        suffix = self.key.literals[-1]
        if self.keys[0].oid == BYTEA:
            if not prefix and not suffix:
                return _text(self.keys[0])
            # Materialize has no bytea || bytea (sql/src/func.rs: "||" joins text, jsonb, arrays and lists).
            ends = [literal(end.encode().hex()) if end else "" for end in (prefix, suffix)]
            return f"decode({_joined([ends[0], _hex(self.keys[0]), ends[1]])}, 'hex')"
        parts = [literal(prefix) if prefix else ""]
        for column, escapes, text in zip(self.keys, self.key.escapes, self.key.literals, strict=True):
            expression = _text(column)
            for plain, escaped in escapes:
                expression = f"replace({expression}, {literal(plain)}, {literal(escaped)})"
            parts += [expression, literal(text) if text else ""]
        return _joined(parts)

    @property
    def _travelling(self) -> dict[str, str]:
        """The columns that are read per row, by name in the result; `form` makes rows of them."""
        columns = {"key": self._key_behind("")}
        if self.layout == "json":
            fields = ", ".join(f"{literal(column.name)}, {_name(column)}" for column in self.values)
            columns["value"] = f"jsonb_build_object({fields})::text"
        else:
            names = ["value"] if len(self.values) == 1 else [f"value{i}" for i in range(len(self.values))]
            columns |= {name: _text(column) for name, column in zip(names, self.values, strict=True)}
        if self.expires_at is not None:
            columns["expires_at"] = _milliseconds(self.expires_at)
        return columns

    @property
    def sends_columns(self) -> bool:
        """Whether a SUBSCRIBE to an object that has the query's rows sends what one to `mapped` does."""
        columns = (*self.keys, *self.values)
        as_they_are = [*self._travelling.values()] == [_text(column) for column in columns]
        printed = all(column.oid in PRINTED_AS_CAST for column in columns)
        return self.in_order and self.shard == WHOLE and as_they_are and printed

    @property
    def form(self) -> RowForm:
        """How the columns that are read become rows."""
        json = self.layout == "json"
        kinds = [column.oid == BYTEA for column in (self.keys[0], *(() if json else self.values))]
        return RowForm(
            prefix=self.key.prefix.encode(),
            values=1 if json else len(self.values),
            several=self.layout == "hash",
            expires=self.expires_at is not None,
            binary=(*kinds, *[False] * (json + (self.expires_at is not None))),
        )

    def hash_sql(self, salt: str) -> str:
        """Return Materialize's 64-bit hash of a row, with the salt before each column (docs/adr/0013).

        A NULL value is left out. With several columns, NULL has a text of its own.
        """
        # JSON has numerics for floats: −0 is 0 there, and so is what 39 places cannot hold.
        as_numeric = FLOATS if self.layout == "json" else ()
        values = [f"{_name(one)}::numeric::text" if one.oid in as_numeric else _hashable(one) for one in self.values]
        values += [_milliseconds(self.expires_at)] if self.expires_at is not None else []
        if len(values) > 1:
            null = literal("-" + salt[:0:-1])
            values = [f"coalesce({value}, {null})" for value in values]
        keys = [_hashable(column) for column in self.keys]
        return f"seahash(concat_ws({literal(salt)}, '', {', '.join([*keys, *values])}))"

    def bucket_sql(self, buckets: int) -> str:
        return f"crc32({self.key_sql}) % {buckets}::uint4"

    def mapped(self) -> str:
        """Return a query for the rows, as `form` takes them."""
        listed = ", ".join(f"{expression} AS {name}" for name, expression in self._travelling.items())
        return f"SELECT {listed} FROM {self.source}"

    def within(self, chosen: list[int], buckets: int) -> str:
        """Return the condition that limits `mapped` to chosen buckets.

        A byte mask costs the same for one bucket or all; IN lists cost minutes.
        """
        mask = bytes_literal(mask_of(chosen, buckets))
        return f" WHERE get_byte({mask}, ({self.bucket_sql(buckets)})::int4) = 1"

    def fingerprints(self, buckets: int, salt: str) -> str:
        """Return a query for (bucket, rows, fingerprint) per bucket with rows; bucket NULL for rows without a key."""
        return (
            f"SELECT {self.bucket_sql(buckets)} AS bucket, count(*) AS rows, sum({self.hash_sql(salt)}) AS fingerprint "
            f"FROM {self.source} GROUP BY 1"
        )

    def part_sql(self, i: int, n: int) -> str:
        """Return the condition for one of n parts of the keys; the first includes rows without a key."""
        return f"coalesce({self.bucket_sql(n)}, 0::uint4) = {i}::uint4"

    def in_parts(self, statement: str) -> list[str]:
        """Return `mapped` as statements that together give all rows."""
        if self.parts == 1:
            return [statement]
        return [f"{statement} WHERE {self.part_sql(i, self.parts)}" for i in self.shard.residues(self.parts)]

    @property
    def signature(self) -> list[str]:
        """What must stay equal for stored digests and fingerprints to be comparable.

        Of json the types too: a number and its text hash alike at the source, and are stored as 1 and "1".
        """
        names = [] if self.layout == "string" else [column.name for column in self.values]
        kinds = ["bytes" if column.oid == BYTEA else "text" for column in (*self.keys, *self.values)]
        if self.layout == "json":
            kinds[len(self.keys) :] = ["text" if column.oid == TEXT else f"type {column.oid}" for column in self.values]
        expiry = "expires" if self.expires_at is not None else "stays"
        form = f"layout {self.layout} 2, {len(self.keys)} + {len(self.values)} columns"
        return [form, self.key.prefix, *self.key.literals, *kinds, *names, expiry]

    @property
    def columns(self) -> list[str]:
        """Names and types of the columns that are read."""
        expiry = () if self.expires_at is None else (self.expires_at,)
        return [f"{column.name} {column.oid}" for column in (*self.keys, *self.values, *expiry)]


def _name(column: Column) -> str:
    return f"q.{identifier(column.name)}"


def _text(column: Column) -> str:
    """Return a column as text, or as bytes if it is bytea, without superfluous casts."""
    return _name(column) if column.oid in (BYTEA, TEXT) else f"{_name(column)}::text"


def _milliseconds(column: Column) -> str:
    """Return a time as Redis takes it: a change within a millisecond is none, to a SUBSCRIBE as to a hash."""
    return f"(extract(epoch FROM {_name(column)}) * 1000)::int8::text"


def _hex(column: Column) -> str:
    return f"encode({_name(column)}, 'hex')"


def _hashable(column: Column) -> str:
    return _hex(column) if column.oid == BYTEA else _text(column)


def _joined(expressions: list[str]) -> str:
    return " || ".join(expression for expression in expressions if expression)


def companion_ddl(mapping: Mapping, name: str, buckets: int, salt: str) -> str:
    """Return the statements that create the companion view."""
    index = name.rsplit(".", 1)[-1].strip('"') + "_by_bucket"
    return (
        f"CREATE VIEW {name} AS\n  {mapping.fingerprints(buckets, salt)};\n"
        f"CREATE INDEX {identifier(index)} ON {name} (bucket);\n"
    )


def companion_rows(name: str, shard: Shard = WHOLE) -> str:
    """Return a query for all fingerprints of the companion view."""
    chosen = "" if shard == WHOLE else f" WHERE coalesce(bucket % {shard.n}::uint4, 0::uint4) = {shard.i}::uint4"
    return f"SELECT bucket, rows, fingerprint FROM {name}{chosen}"


def as_of(statement: str, timestamp: int | None) -> str:
    """Return the statement at an explicit time; None: at the time of its transaction."""
    return statement if timestamp is None else f"{statement} AS OF {timestamp}"


def subscribe(
    mapping: Mapping,
    timestamp: int,
    up_to: Frontier | None = None,
    part: tuple[int, int] | None = None,
    relation: str | None = None,
) -> str:
    """Return a SUBSCRIBE to changes after `timestamp`, as COPY text: mz_timestamp, mz_progressed, mz_diff, key, value.

    part (i, n): only keys with crc32(key) mod n = i; the first includes rows without a key. relation: the name of an
    object that has the query's rows, and so can be followed in its stead.
    """
    bound = "" if up_to is None else f" UP TO {up_to}"
    chosen = "" if part is None else f" WHERE {mapping.part_sql(*part)}"
    rows = relation or f"({mapping.mapped()}{chosen})"
    return f"COPY (SUBSCRIBE {rows} WITH (PROGRESS, SNAPSHOT=false) AS OF {timestamp}{bound}) TO STDOUT"


def mean_bytes(mapping: Mapping) -> str:
    """Return a query for the mean size of a row: its key, without the prefix, and its values."""
    lengths = [f"coalesce(octet_length({_text(column)}), 0)" for column in (*mapping.keys, *mapping.values)]
    return f"SELECT avg({' + '.join(lengths)}) AS mean FROM {mapping.source}"


def all_of(relation: str) -> str:
    """Return a query for every column of a relation, quoted if necessary."""
    return f"SELECT * FROM {relation}"

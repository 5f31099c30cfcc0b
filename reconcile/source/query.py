"""The SQL we send. The user's query is `q`; everything else is built around it.

    mapped        the Redis key and value, exactly as stored: SELECT 'p:' || key::text, value::text FROM (q)
    hashed        the same with the source's own hash of the row, to learn fingerprints while rows stream by
    fingerprints  GROUP BY bucket over that hash
    within        keeps either to chosen buckets, by byte mask

Casting to text in SQL, on every path, gives one text form: a boolean would be `true` on one path and `t` on another.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconcile.core.digest import mask_of
from reconcile.errors import SchemaError

UNSALTED = "0" * 32
"""The salt of a source hash that anybody may know."""
BYTEA = 17
_NUMERIC = {
    20: "bigint",
    21: "smallint",
    23: "integer",
    1700: "numeric",
    16460: "uint2",
    16462: "uint4",
    16464: "uint8",
}
_TEXT = {18: "char", 19: "name", 25: "text", 1042: "char(n)", 1043: "varchar"}
_TIME = {1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 16552: "mz_timestamp"}
_OTHER = {16: "boolean", 700: "real", 701: "double precision", 2950: "uuid", BYTEA: "bytea", 3802: "jsonb"}
VALUE_TYPES = _NUMERIC | _TEXT | _TIME | _OTHER
KEY_TYPES = {oid: name for oid, name in VALUE_TYPES.items() if oid not in (700, 701, 1186, 3802)}


@dataclass(frozen=True, slots=True)
class Column:
    """One result column: name and type oid."""

    name: str
    oid: int


def literal(text: str) -> str:
    """A SQL string literal. standard_conforming_strings is on in Materialize."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def bytes_literal(data: bytes) -> str:
    """A SQL bytea literal."""
    return f"'\\x{data.hex()}'::bytea"


def describe(sql: str) -> str:
    """A query that returns no rows but the columns of `sql`; Materialize reduces it to a constant."""
    return f"SELECT * FROM ({sql}) AS q WHERE false LIMIT 0"


def current_of(sql: str) -> str:
    """Asks for since, upper, the present time and the objects read, without running anything."""
    return f"EXPLAIN TIMESTAMP AS JSON FOR SELECT * FROM ({sql}) AS q"


def plan_of(sql: str) -> str:
    """The plan tells what EXPLAIN TIMESTAMP does not: plain views, which are inlined and have no frontier.

    As JSON: text may tell of a constant relation no more than how many rows it has (sqllogictest/explain/default.slt).
    Not the fast path's: that has the present time in the place of mz_now() (adapter/src/optimize/peek.rs).
    """
    return f"EXPLAIN OPTIMIZED PLAN WITH (NO FAST PATH) AS JSON FOR SELECT * FROM ({sql}) AS q"


@dataclass(frozen=True, slots=True)
class Mapping:
    """How the query's columns become Redis keys and values. Built by `map_columns`."""

    sql: str
    key: Column
    value: Column
    prefix: str
    parts: int = 1
    """How many results the view is read in: Materialize bounds the size of each (max_query_result_size)."""

    @property
    def _key_text(self) -> str:
        name = f"q.{identifier(self.key.name)}"
        return name if self.key.oid == BYTEA else f"{name}::text"

    @property
    def key_sql(self) -> str:
        """Expression for the exact Redis key: text, or bytea where the key column is."""
        if not self.prefix:
            return self._key_text
        if self.key.oid == BYTEA:
            # Materialize has no bytea || bytea (sql/src/func.rs: "||" joins text, jsonb, arrays and lists).
            return f"decode('{self.prefix.encode().hex()}' || encode({self._key_text}, 'hex'), 'hex')"
        return f"{literal(self.prefix)} || {self._key_text}"

    @property
    def value_sql(self) -> str:
        name = f"q.{identifier(self.value.name)}"
        return name if self.value.oid == BYTEA else f"{name}::text"

    def hash_sql(self, salt: str) -> str:
        """Materialize's 64-bit hash of a row (docs/adr/0012): SALT key SALT value, without the second part for NULL."""
        key = self._key_text if self.key.oid != BYTEA else f"encode({self._key_text}, 'hex')"
        value = self.value_sql if self.value.oid != BYTEA else f"encode({self.value_sql}, 'hex')"
        return f"seahash('{salt}' || {key} || coalesce('{salt}' || {value}, ''))"

    def bucket_sql(self, buckets: int) -> str:
        return f"crc32({self.key_sql}) % {buckets}::uint4"

    def mapped(self) -> str:
        return f"SELECT {self.key_sql} AS key, {self.value_sql} AS value FROM ({self.sql}) AS q"

    def hashed(self, salt: str = UNSALTED) -> str:
        return (
            f"SELECT {self.key_sql} AS key, {self.value_sql} AS value, {self.hash_sql(salt)} AS hash "
            f"FROM ({self.sql}) AS q"
        )

    def within(self, chosen: list[int], buckets: int) -> str:
        """What keeps `mapped` or `hashed` to chosen buckets. A byte mask costs the same for one bucket or all; IN lists
        cost minutes."""
        mask = bytes_literal(mask_of(chosen, buckets))
        return f" WHERE get_byte({mask}, ({self.bucket_sql(buckets)})::int4) = 1"

    def fingerprints(self, buckets: int, salt: str = UNSALTED) -> str:
        """(bucket, rows, fingerprint) per bucket that has rows; bucket NULL for rows without key."""
        return (
            f"SELECT {self.bucket_sql(buckets)} AS bucket, count(*) AS rows, sum({self.hash_sql(salt)}) AS fingerprint "
            f"FROM ({self.sql}) AS q GROUP BY 1"
        )

    def part_sql(self, i: int, n: int) -> str:
        """Condition for one of n parts of the keys; the first has the rows without key."""
        return f"coalesce({self.bucket_sql(n)}, 0::uint4) = {i}::uint4"

    def in_parts(self, statement: str) -> list[str]:
        """`mapped` or `hashed`, as statements that together give all rows."""
        if self.parts == 1:
            return [statement]
        return [f"{statement} WHERE {self.part_sql(i, self.parts)}" for i in range(self.parts)]

    @property
    def signature(self) -> list[str]:
        """What must stay equal for stored digests and fingerprints to be comparable."""
        kinds = ["bytes" if column.oid == BYTEA else "text" for column in (self.key, self.value)]
        return ["layout string 1", self.prefix, *kinds]

    @property
    def columns(self) -> list[str]:
        return [f"{column.name} {column.oid}" for column in (self.key, self.value)]


def map_columns(sql: str, columns: list[Column], key: str, value: str, prefix: str, view: str) -> Mapping:
    """Check the query's columns against the configured names and types. Raises SchemaError."""
    found = {column.name: column for column in columns}
    names = ", ".join(column.name for column in columns) or "none"
    for name, role in ((key, "key"), (value, "value")):
        if name not in found:
            raise SchemaError(
                f"the query of view {view} has no column {name!r}; its columns are: {names}",
                hint=f"name it in the query (… AS {name}) or set `{role}:` in the configuration",
                view=view,
            )
        if sum(column.name == name for column in columns) > 1:
            raise SchemaError(
                f"the query of view {view} has several columns {name!r}", hint="give them names", view=view
            )
    extra = [column.name for column in columns if column.name not in (key, value)]
    if extra:
        raise SchemaError(
            f"the query of view {view} has columns that go nowhere: {', '.join(extra)}",
            hint="the string layout stores one value per key: select the key and the value column only",
            view=view,
        )
    _check_type(found[key], KEY_TYPES, "key", view)
    _check_type(found[value], VALUE_TYPES, "value", view)
    return Mapping(sql, found[key], found[value], prefix)


def _check_type(column: Column, supported: dict[int, str], role: str, view: str) -> None:
    if column.oid not in supported:
        raise SchemaError(
            f"column {column.name!r} of view {view} has a type that cannot be a Redis {role} (oid {column.oid})",
            hint=f"cast it in the query, e.g. {column.name}::text or to_jsonb({column.name})",
            view=view,
        )


def companion_ddl(mapping: Mapping, name: str, buckets: int, salt: str = UNSALTED) -> str:
    """Statements that create the companion view, so that Materialize maintains the fingerprints."""
    index = name.rsplit(".", 1)[-1].strip('"') + "_by_bucket"
    return (
        f"CREATE VIEW {name} AS\n  {mapping.fingerprints(buckets, salt)};\n"
        f"CREATE INDEX {identifier(index)} ON {name} (bucket);\n"
    )


def companion_rows(name: str) -> str:
    """All fingerprints the companion view maintains."""
    return f"SELECT bucket, rows, fingerprint FROM {name}"


def companion_largest(name: str) -> str:
    """The highest bucket it has a row for: tells how many buckets it was made for."""
    return f"SELECT max(bucket) AS largest FROM {name}"


def as_of(statement: str, timestamp: int | None) -> str:
    """The statement at an explicit time; None: at the time of its transaction."""
    return statement if timestamp is None else f"{statement} AS OF {timestamp}"


def subscribe(mapping: Mapping, timestamp: int, up_to: int | None = None, part: tuple[int, int] | None = None) -> str:
    """Changes after `timestamp` as COPY text: mz_timestamp, mz_progressed, mz_diff, key, value.

    part (i, n): only keys with crc32(key) mod n = i; the first has the rows without key.
    """
    bound = "" if up_to is None else f" UP TO {up_to}"
    chosen = "" if part is None else f" WHERE {mapping.part_sql(*part)}"
    return (
        f"COPY (SUBSCRIBE ({mapping.mapped()}{chosen}) WITH (PROGRESS, SNAPSHOT=false) "
        f"AS OF {timestamp}{bound}) TO STDOUT"
    )

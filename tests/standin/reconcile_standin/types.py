"""SQL types: their oids, and how the engine holds their values.

The engine (SQLite) knows integers, reals, text and blobs. Everything else is held as text in Materialize's own
canonical form, so that equality and grouping work on it as it is; bool is 0/1, timestamps are microseconds since
1970, numeric and uint8 are decimal text (SQLite has neither decimals nor unsigned 64 bit integers).
"""

from __future__ import annotations

from dataclasses import dataclass

from reconcile_standin.problem import SqlError


@dataclass(frozen=True, slots=True)
class Type:
    """One SQL type; size is what RowDescription says, affinity what the engine's column is."""

    name: str
    oid: int
    size: int
    affinity: str
    element: str | None = None

    @property
    def is_decimal(self) -> bool:
        """Held as decimal text."""
        return self.name in ("numeric", "uint8")

    @property
    def is_integer(self) -> bool:
        """Held as an engine integer that is a number."""
        return self.name in _INTEGER_RANK

    @property
    def is_number(self) -> bool:
        """Any number."""
        return self.is_decimal or self.is_integer or self.name in ("float8", "float4")


_INTEGER_RANK = {"int2": (2, True), "int4": (4, True), "int8": (8, True), "uint2": (2, False), "uint4": (4, False)}
RANGES = {
    "int2": (-(2**15), 2**15 - 1), "int4": (-(2**31), 2**31 - 1), "int8": (-(2**63), 2**63 - 1),
    "uint2": (0, 2**16 - 1), "uint4": (0, 2**32 - 1), "uint8": (0, 2**64 - 1), "mz_timestamp": (0, 2**64 - 1),
    "oid": (0, 2**32 - 1),
}  # fmt: skip
LONG_NAMES = {
    "int2": "smallint", "int4": "integer", "int8": "bigint", "bool": "boolean", "float8": "double precision",
    "float4": "real", "timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone",
}  # fmt: skip

_TYPES = {
    t.name: t
    for t in (
        Type("bool", 16, 1, "INTEGER"),
        Type("bytea", 17, -1, "BLOB"),
        Type("int8", 20, 8, "INTEGER"),
        Type("int2", 21, 2, "INTEGER"),
        Type("int4", 23, 4, "INTEGER"),
        Type("text", 25, -1, "TEXT"),
        Type("oid", 26, 4, "INTEGER"),
        Type("float4", 700, 4, "REAL"),
        Type("float8", 701, 8, "REAL"),
        Type("bpchar", 1042, -1, "TEXT"),
        Type("varchar", 1043, -1, "TEXT"),
        Type("date", 1082, 4, "TEXT"),
        Type("timestamp", 1114, 8, "INTEGER"),
        Type("timestamptz", 1184, 8, "INTEGER"),
        Type("interval", 1186, 16, "TEXT"),
        Type("record", 2249, -1, "TEXT"),
        Type("numeric", 1700, -1, "TEXT"),
        Type("uuid", 2950, 16, "TEXT"),
        Type("jsonb", 3802, -1, "TEXT"),
        Type("uint2", 16460, 2, "INTEGER"),
        Type("uint4", 16462, 4, "INTEGER"),
        Type("uint8", 16464, 8, "TEXT"),
        Type("mz_timestamp", 16552, 8, "INTEGER"),
    )
}
_ALIASES = {
    "smallint": "int2", "int": "int4", "integer": "int4", "bigint": "int8", "boolean": "bool", "string": "text",
    "real": "float4", "float": "float8", "double": "float8", "decimal": "numeric", "json": "jsonb", "bytes": "bytea",
    "char": "bpchar", "character": "bpchar", "dec": "numeric", "name": "text", "regclass": "text",
}  # fmt: skip
_ARRAY_OIDS = {
    "bool": 1000, "bytea": 1001, "int2": 1005, "int4": 1007, "text": 1009, "int8": 1016, "float8": 1022,
    "numeric": 1231, "uuid": 2951, "jsonb": 3807, "timestamptz": 1185, "date": 1182,
}  # fmt: skip
_LIST_OID = 16384

TEXT, BOOL, BYTEA, FLOAT8 = _TYPES["text"], _TYPES["bool"], _TYPES["bytea"], _TYPES["float8"]
INT2, INT4, INT8, NUMERIC = _TYPES["int2"], _TYPES["int4"], _TYPES["int8"], _TYPES["numeric"]
UINT4, UINT8, MZ_TIMESTAMP = _TYPES["uint4"], _TYPES["uint8"], _TYPES["mz_timestamp"]
TIMESTAMPTZ, TIMESTAMP, DATE, INTERVAL = (
    _TYPES["timestamptz"], _TYPES["timestamp"], _TYPES["date"], _TYPES["interval"],
)  # fmt: skip
JSONB, UUID, RECORD = _TYPES["jsonb"], _TYPES["uuid"], _TYPES["record"]


def named(name: str) -> Type:
    """A type by any of its names."""
    if name.endswith("[]"):
        element = named(name[:-2])
        return Type(f"{element.name}[]", _ARRAY_OIDS.get(element.name, 1009), -1, "TEXT", element.name)
    if name.endswith(" list"):
        element = named(name[:-5])
        return Type(f"{element.name} list", _LIST_OID, -1, "TEXT", element.name)
    found = _TYPES.get(_ALIASES.get(name, name))
    if found is None:
        raise SqlError(f'type "{name}" does not exist', "42704")
    return found


_BY_OID = {t.oid: t for t in _TYPES.values()}


def by_oid(oid: int) -> Type | None:
    """The type a client declared for a parameter; None for unknown ones."""
    return _BY_OID.get(oid)


def arithmetic(left: Type, right: Type) -> Type:
    """The type of left ∘ right for numbers, as Materialize picks it (crc32(k) % 4096 is an int8)."""
    if left.name == right.name:
        return left
    names = {left.name, right.name}
    if names & {"float8", "float4"}:
        return FLOAT8
    if names & {"numeric", "uint8"}:
        return NUMERIC
    (left_size, left_signed), (right_size, right_signed) = _INTEGER_RANK[left.name], _INTEGER_RANK[right.name]
    if left_signed == right_signed:
        return left if left_size >= right_size else right
    signed, unsigned = (left_size, right_size) if left_signed else (right_size, left_size)
    needed = max(signed, min(unsigned * 2, 8))
    return {2: INT2, 4: INT4, 8: INT8}[needed]


def common(types: list[Type]) -> Type:
    """The type of CASE, COALESCE, UNION."""
    result = types[0]
    for other in types[1:]:
        if other.name == result.name:
            continue
        if other.is_number and result.is_number:
            result = arithmetic(result, other)
        elif {result.name, other.name} <= {"text", "varchar", "bpchar"}:
            result = TEXT
        elif {result.name, other.name} <= {"date", "timestamp", "timestamptz"}:
            result = TIMESTAMPTZ if "timestamptz" in (result.name, other.name) else TIMESTAMP
        else:
            raise SqlError(f"types {long_name(result)} and {long_name(other)} cannot be matched")
    return result


def long_name(type_: Type) -> str:
    """The name messages use."""
    return LONG_NAMES.get(type_.name, type_.name)

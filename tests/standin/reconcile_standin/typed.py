"""Typed expressions of the engine's SQL, and the few that are computed over whole columns instead."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from reconcile_standin import types
from reconcile_standin.problem import SqlError
from reconcile_standin.types import Type
from reconcile_standin.values import Value, cast_text, parse_text


@dataclass(frozen=True, slots=True)
class Hash:
    """crc32 or seahash of an expression over one row of one table; rows never change, so results are kept."""

    function: str
    sql: str


@dataclass(frozen=True, slots=True)
class Modulo:
    """hash % by"""

    of: Hash
    by: int


@dataclass(frozen=True, slots=True)
class Pick:
    """get_byte(mask, index): not a value by itself, only its comparison with a number is."""

    mask: bytes
    index: Hash | Modulo


@dataclass(frozen=True, slots=True)
class Mask:
    """get_byte(mask, index) = byte"""

    pick: Pick
    byte: int


@dataclass(frozen=True, slots=True)
class OrElse:
    """coalesce(hash, number): not a value by itself either."""

    of: Hash | Modulo
    number: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """hash IN (numbers), hash = number, coalesce(hash, number) = number. nulls: whether NULL satisfies it too."""

    of: Hash | Modulo
    numbers: tuple[int, ...]
    nulls: bool = False


Vector = Hash | Modulo | Pick | Mask | OrElse | OneOf


class _NoConstant:
    """Marks an expression whose value depends on a row."""


NO_CONSTANT = _NoConstant()


@dataclass(frozen=True, slots=True)
class Typed:
    """Engine SQL with its SQL type. unknown: a string literal whose type its context decides."""

    sql: str
    type: Type
    vector: Vector | None = None
    constant: Value | _NoConstant = field(default=NO_CONSTANT)
    unknown: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether the value is known already."""
        return not isinstance(self.constant, _NoConstant)

    @property
    def value(self) -> Value:
        """The value of a constant."""
        assert not isinstance(self.constant, _NoConstant)
        return self.constant

    def retyped(self, type_: Type) -> Typed:
        """The same engine value under another type."""
        return replace(self, type=type_, unknown=False)


def quote(value: Value) -> str:
    """A value as engine SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        return {"inf": "9e999", "-inf": "-9e999"}.get(repr(value), repr(value))
    return str(value) if value >= -(2**63) + 1 else "(-9223372036854775807-1)"


def constant(value: Value, type_: Type) -> Typed:
    """A literal."""
    return Typed(quote(value), type_, constant=value)


def known(expr: Typed, type_: Type = types.TEXT) -> Typed:
    """An unknown string literal, now that its type is known."""
    if not expr.unknown:
        return expr
    if expr.value is None:
        return constant(None, type_)
    return constant(parse_text(type_, str(expr.value)), type_)


def _to_integer(expr: Typed, target: Type) -> Typed:
    low, high = types.RANGES[target.name]
    label = types.long_name(target)
    if expr.type.is_decimal:
        return Typed(f"mz_num_int({expr.sql},{low},{high},'{label}')", target)
    if expr.type.name in ("float8", "float4"):
        return Typed(f"mz_float_int({expr.sql},{low},{high},'{label}')", target)
    source = types.RANGES.get(expr.type.name, (0, 1))
    within = low <= source[0] and source[1] <= high
    if isinstance(expr.vector, Modulo) and expr.vector.by - 1 <= high:
        within = True
    if isinstance(expr.constant, int):
        within = low <= expr.constant <= high
    if within:
        return expr.retyped(target)
    return Typed(f"mz_range({expr.sql},{quote(low)},{high},'{label}')", target)


def _to_text(expr: Typed) -> Typed:
    name = expr.type.name
    if name in ("text", "varchar", "bpchar") or (expr.type.affinity == "TEXT" and not expr.is_constant):
        return replace(expr, type=types.TEXT, unknown=False)
    if expr.is_constant:
        return constant(None if expr.value is None else cast_text(expr.type, expr.value), types.TEXT)
    if expr.type.is_integer or name in ("oid", "mz_timestamp"):
        return Typed(f"CAST({expr.sql} AS TEXT)", types.TEXT, expr.vector)
    if name == "bool":
        return Typed(f"CASE {expr.sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END", types.TEXT)
    return Typed(f"mz_text({expr.sql},'{name}')", types.TEXT)


def _to_number(expr: Typed, target: Type) -> Typed:
    if target.name in ("float8", "float4"):
        sql = "mz_num_float({})" if expr.type.name == "numeric" else "CAST({} AS REAL)"
        return Typed(sql.format(expr.sql), target)
    if target.name == "uint8":
        if expr.type.name in ("uint2", "uint4"):
            return Typed(f"CAST({expr.sql} AS TEXT)", target)
        return Typed(f"mz_uint8({expr.sql})", target)
    if expr.type.name in ("float8", "float4"):
        return Typed(f"mz_float_num({expr.sql})", target)
    if expr.type.is_decimal:
        return expr.retyped(target)
    return Typed(f"CAST({expr.sql} AS TEXT)", target)


_MOMENTS = ("timestamp", "timestamptz")


def cast(expr: Typed, target: Type) -> Typed:
    """expr::target"""
    source = expr.type
    if expr.unknown:
        return known(expr, target)
    if source.name == target.name:
        return expr
    if expr.is_constant and expr.value is None:
        return constant(None, target)
    if target.name in ("text", "varchar", "bpchar"):
        return _to_text(expr).retyped(target)
    if target.is_integer or target.name == "oid":
        if source.name == "bool":
            return expr.retyped(target)
        if source.is_number or source.name == "oid":
            return _to_integer(expr, target)
    if target.is_number and source.is_number:
        return _to_number(expr, target)
    if target.name == "bool" and source.is_integer:
        return Typed(f"({expr.sql}<>0)", target)
    return _cast_other(expr, target)


def _cast_other(expr: Typed, target: Type) -> Typed:
    source = expr.type
    if source.name in _MOMENTS and target.name in _MOMENTS:
        return expr.retyped(target)
    if source.name in _MOMENTS and target.name == "mz_timestamp":
        return Typed(f"({expr.sql}/1000)", target)
    if source.is_integer and target.name == "mz_timestamp":
        return expr.retyped(target)
    if source.is_decimal and target.name == "mz_timestamp":
        return Typed(f"CAST({expr.sql} AS INTEGER)", target)
    if source.name == "mz_timestamp" and target.name in _MOMENTS:
        return Typed(f"({expr.sql}*1000)", target)
    if source.name == "mz_timestamp" and target.is_decimal:
        return Typed(f"CAST({expr.sql} AS TEXT)", target)
    if source.name in _MOMENTS and target.name == "date":
        return Typed(f"substr(mz_text({expr.sql},'timestamp'),1,10)", target)
    if target.name == "jsonb" and source.affinity != "TEXT":
        return Typed(f"mz_to_json({expr.sql},'{source.name}')", target)
    parsable = source.name in ("text", "varchar", "bpchar", "jsonb", "date") or source.element is not None
    if parsable or target.element is not None:
        return Typed(f"mz_parse({expr.sql},'{target.name}')", target)
    raise _no_cast(source, target)


def _no_cast(source: Type, target: Type) -> Exception:
    names = types.long_name(source), types.long_name(target)
    return SqlError(f"CAST does not support casting from {names[0]} to {names[1]}")


def unify(exprs: list[Typed]) -> list[Typed]:
    """Several expressions brought to their common type."""
    kinds = [e.type for e in exprs if not e.unknown]
    target = types.common(kinds) if kinds else types.TEXT
    return [cast(e, target) for e in exprs]

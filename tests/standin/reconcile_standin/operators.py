"""Materialize's infix operators: operands in, engine SQL and result type out."""

from __future__ import annotations

import re

from reconcile_standin import types
from reconcile_standin.problem import SqlError
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf, OrElse, Pick, Typed, cast, known, unify
from reconcile_standin.types import BOOL, BYTEA, JSONB, TEXT, UINT8

_NO_MATCH = "No operator matches the given name and argument types. You might need to add explicit type casts."
_DECIMAL = {"+": "mz_num_add", "-": "mz_num_sub", "*": "mz_num_mul", "/": "mz_num_div", "%": "mz_num_mod"}


def no_operator(op: str, left: Typed, right: Typed) -> SqlError:
    """No overload of an infix operator."""
    names = ["unknown" if e.unknown else types.long_name(e.type) for e in (left, right)]
    return SqlError(f"operator does not exist: {names[0]} {op} {names[1]}", hint=_NO_MATCH)


def arithmetic(op: str, left: Typed, right: Typed) -> Typed:
    """+ - * / % on numbers and times."""
    left, right = _settle(left, right)
    if not (left.type.is_number and right.type.is_number):
        return _time_arithmetic(op, left, right)
    result = types.arithmetic(left.type, right.type)
    vector = None
    if op == "%" and isinstance(left.vector, Hash) and isinstance(right.constant, int | str) and int(right.constant):
        vector = Modulo(left.vector, int(right.constant))
    left, right = cast(left, result), cast(right, result)
    if result is UINT8:
        return Typed(f"mz_uint8_op('{op}',{left.sql},{right.sql})", result, vector)
    if result.is_decimal:
        return Typed(f"{_DECIMAL[op]}({left.sql},{right.sql})", result, vector)
    if op in "/%":
        if isinstance(right.constant, int) and right.constant != 0:
            return Typed(f"({left.sql}{op}{right.sql})", result, vector)
        sql = f"CASE WHEN {right.sql}=0 THEN mz_error('division by zero') ELSE {left.sql}{op}{right.sql} END"
        return Typed(sql, result)
    return Typed(f"({left.sql}{op}{right.sql})", result)


def _settle(left: Typed, right: Typed) -> tuple[Typed, Typed]:
    if left.unknown and right.unknown:
        return known(left), known(right)
    if left.unknown:
        return known(left, right.type), right
    if right.unknown:
        return left, known(right, types.INTERVAL if left.type.name.startswith("timestamp") else left.type)
    return left, right


def _time_arithmetic(op: str, left: Typed, right: Typed) -> Typed:
    names = left.type.name, right.type.name
    if names[1] == "interval" and names[0] in ("timestamp", "timestamptz", "date") and op in "+-":
        moment = left if names[0] != "date" else cast(left, types.TIMESTAMP)
        return Typed(f"mz_interval_add({moment.sql},{right.sql},{1 if op == '+' else -1})", moment.type)
    if names[0] == "mz_timestamp" and right.type.is_number and op in "+-":
        return Typed(f"({left.sql}{op}CAST({right.sql} AS INTEGER))", left.type)
    if op == "-" and left.type is JSONB:
        raise SqlError.unsupported("jsonb - text")
    raise no_operator(op, left, right)


def compare(op: str, left: Typed, right: Typed) -> Typed:
    """= <> < <= > >="""
    if left.unknown or right.unknown:
        left, right = _settle_comparison(left, right)
    vector = _picked(op, left, right)
    if left.type.name != right.type.name:
        names = {left.type.name, right.type.name}
        if "mz_timestamp" in names:
            left, right = cast(left, types.MZ_TIMESTAMP), cast(right, types.MZ_TIMESTAMP)
        else:
            try:
                left, right = unify([left, right])
            except SqlError:
                raise no_operator(op, left, right) from None
    if left.type.is_decimal and op not in ("=", "<>"):
        return Typed(f"(mz_cmp({left.sql},{right.sql}){op}0)", BOOL)
    return Typed(f"({left.sql}{op}{right.sql})", BOOL, vector)


def _settle_comparison(left: Typed, right: Typed) -> tuple[Typed, Typed]:
    if left.unknown and right.unknown:
        return known(left), known(right)
    return (known(left, right.type), right) if left.unknown else (left, known(right, left.type))


def _picked(op: str, left: Typed, right: Typed) -> Mask | OneOf | None:
    if op != "=" or not right.is_constant or right.value is None or not right.type.is_number:
        return None
    try:
        number = int(str(right.value))
    except ValueError:
        return None
    if isinstance(left.vector, Pick):
        return Mask(left.vector, number)
    if isinstance(left.vector, OrElse):
        return OneOf(left.vector.of, (number,), nulls=number == left.vector.number)
    # Only numbers: text of a hash keeps its vector too, but compares as text.
    if isinstance(left.vector, Hash | Modulo) and left.type.is_number:
        return OneOf(left.vector, (number,))
    return None


def one_of(operand: Typed, items: list[Typed]) -> Typed:
    """operand IN (items)"""
    parts = [compare("=", operand, item) for item in items]
    sql = _in_list([p.sql for p in parts])
    vectors = [p.vector for p in parts if isinstance(p.vector, OneOf)]
    if len(vectors) == len(parts):
        numbers, nulls = tuple(v.numbers[0] for v in vectors), any(v.nulls for v in vectors)
        return Typed(sql, BOOL, OneOf(vectors[0].of, numbers, nulls))
    return Typed(sql, BOOL)


def _in_list(parts: list[str]) -> str:
    """Alternatives: a list of equal operands costs the engine less, and it takes more of them."""
    start = parts[0][: parts[0].find("=") + 1]
    same = all(p.startswith(start) for p in parts)
    if same and len(parts) > 1 and re.fullmatch(r"\(ŧ\d+ŧ\.c\d+=", start):
        return f"{start[:-1]} IN ({','.join(p[len(start) : -1] for p in parts)}))"
    return f"({' OR '.join(parts)})"


def infix(op: str, left: Typed, right: Typed) -> Typed:
    """Any binary operator but AND and OR."""
    if op in ("=", "<>", "<", "<=", ">", ">="):
        return compare(op, left, right)
    if op == "||":
        return _concatenate(left, right)
    if op in ("->", "->>"):
        key = known(right)
        as_text = int(op == "->>")
        return Typed(f"mz_json_get({left.sql},{key.sql},{as_text})", TEXT if as_text else JSONB)
    if op in ("~", "~*", "!~", "!~*"):
        sql = f"mz_regex({known(left).sql},{known(right).sql},{int(op.endswith('*'))})"
        return Typed(f"(NOT {sql})" if op[0] == "!" else sql, BOOL)
    if op in ("&", "|", "#"):
        return _bits(op, *_settle(left, right))
    if op in _DECIMAL:
        return arithmetic(op, left, right)
    raise no_operator(op, left, right)


def _bits(op: str, left: Typed, right: Typed) -> Typed:
    if left.type is UINT8 and right.type is UINT8:
        return Typed(f"mz_uint8_op('{op}',{left.sql},{right.sql})", UINT8)
    if not (left.type.is_integer and left.type is right.type):
        raise no_operator(op, left, right)
    both = f"({left.sql}&{right.sql})"
    sql = both if op == "&" else f"({left.sql}|{right.sql})"
    return Typed(sql if op != "#" else f"({sql}-{both})", left.type)


def _concatenate(left: Typed, right: Typed) -> Typed:
    left, right = known(left), known(right)
    if left.type is BYTEA and right.type is BYTEA:
        raise no_operator("||", left, right)
    return Typed(f"({cast(left, TEXT).sql}||{cast(right, TEXT).sql})", TEXT)

"""Materialize's functions and operators: argument types in, engine SQL and result type out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconcile_standin import types
from reconcile_standin.problem import SqlError
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf, Pick, Typed, cast, constant, known, unify
from reconcile_standin.types import BOOL, BYTEA, FLOAT8, INT4, INT8, JSONB, NUMERIC, TEXT, TIMESTAMPTZ, UINT4, UINT8

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconcile_standin.types import Type

Args = list[Typed]


@dataclass(frozen=True, slots=True)
class Signature:
    """kinds: t text, b bytea, d either of those, i integer, n numeric, f float8, j jsonb, z timestamptz, a anything."""

    kinds: str
    result: Type
    sql: str


_WANTED = {"t": TEXT, "b": BYTEA, "i": INT8, "n": NUMERIC, "f": FLOAT8, "j": JSONB, "z": TIMESTAMPTZ}

_SIGNATURES: dict[str, list[Signature]] = {
    "kafka_murmur2": [Signature("d", INT4, "mz_murmur2({0})")],
    "md5": [Signature("d", TEXT, "mz_md5({0})")],
    "sha224": [Signature("b", BYTEA, "mz_digest({0},'sha224')")],
    "sha256": [Signature("b", BYTEA, "mz_digest({0},'sha256')")],
    "sha384": [Signature("b", BYTEA, "mz_digest({0},'sha384')")],
    "sha512": [Signature("b", BYTEA, "mz_digest({0},'sha512')")],
    "digest": [Signature("dt", BYTEA, "mz_digest({0},{1})")],
    "encode": [Signature("bt", TEXT, "mz_encode({0},{1})")],
    "decode": [Signature("tt", BYTEA, "mz_decode({0},{1})")],
    "length": [Signature("d", INT4, "length({0})")],
    "char_length": [Signature("t", INT4, "length({0})")],
    "octet_length": [Signature("d", INT4, "length(CAST({0} AS BLOB))")],
    "bit_length": [Signature("d", INT4, "(length(CAST({0} AS BLOB))*8)")],
    "lower": [Signature("t", TEXT, "mz_lower({0})")],
    "upper": [Signature("t", TEXT, "mz_upper({0})")],
    "trim": [Signature("t", TEXT, "trim({0})"), Signature("tt", TEXT, "trim({0},{1})")],
    "btrim": [Signature("t", TEXT, "trim({0})"), Signature("tt", TEXT, "trim({0},{1})")],
    "ltrim": [Signature("t", TEXT, "ltrim({0})"), Signature("tt", TEXT, "ltrim({0},{1})")],
    "rtrim": [Signature("t", TEXT, "rtrim({0})"), Signature("tt", TEXT, "rtrim({0},{1})")],
    "substr": [Signature("ti", TEXT, "substr({0},{1})"), Signature("tii", TEXT, "substr({0},{1},{2})")],
    "substring": [Signature("ti", TEXT, "substr({0},{1})"), Signature("tii", TEXT, "substr({0},{1},{2})")],
    "left": [Signature("ti", TEXT, "substr({0},1,CASE WHEN {1}>=0 THEN {1} ELSE max(length({0})+{1},0) END)")],
    "right": [Signature("ti", TEXT, "CASE WHEN {1}=0 THEN '' ELSE substr({0},-({1})) END")],
    "replace": [Signature("ttt", TEXT, "replace({0},{1},{2})")],
    "lpad": [Signature("ti", TEXT, "mz_pad({0},{1},' ',1)"), Signature("tit", TEXT, "mz_pad({0},{1},{2},1)")],
    "rpad": [Signature("ti", TEXT, "mz_pad({0},{1},' ',0)"), Signature("tit", TEXT, "mz_pad({0},{1},{2},0)")],
    "repeat": [Signature("ti", TEXT, "mz_repeat({0},{1})")],
    "reverse": [Signature("t", TEXT, "mz_reverse({0})")],
    "split_part": [Signature("tti", TEXT, "mz_split_part({0},{1},{2})")],
    "strpos": [Signature("tt", INT4, "instr({0},{1})")],
    "starts_with": [Signature("tt", BOOL, "(substr({0},1,length({1}))={1})")],
    "chr": [Signature("i", TEXT, "mz_chr({0})")],
    "ascii": [Signature("t", INT4, "coalesce(unicode({0}),CASE WHEN {0}='' THEN 0 END)")],
    "sqrt": [Signature("f", FLOAT8, "mz_sqrt({0})")],
    "power": [Signature("ff", FLOAT8, "mz_power({0},{1})")],
    "pow": [Signature("ff", FLOAT8, "mz_power({0},{1})")],
    "date_trunc": [Signature("tz", TIMESTAMPTZ, "mz_trunc({0},{1})")],
    "date_part": [Signature("tz", FLOAT8, "CAST(mz_extract({0},{1}) AS REAL)")],
    "extract": [Signature("tz", NUMERIC, "mz_extract({0},{1})")],
    "to_timestamp": [Signature("f", TIMESTAMPTZ, "CAST({0}*1000000 AS INTEGER)")],
    "timezone": [Signature("tz", types.TIMESTAMP, "({1})")],
    "mz_like": [Signature("tt", BOOL, "mz_like({0},{1},0)")],
    "mz_ilike": [Signature("tt", BOOL, "mz_like({0},{1},1)")],
    "jsonb_typeof": [Signature("j", TEXT, "CASE json_type({0}) WHEN 'text' THEN 'string' WHEN 'integer' THEN 'number'"
                                          " WHEN 'real' THEN 'number' WHEN 'true' THEN 'boolean' WHEN 'false'"
                                          " THEN 'boolean' ELSE json_type({0}) END")],
    "jsonb_array_length": [Signature("j", INT4, "json_array_length({0})")],
}  # fmt: skip
_ALIASES = {"char_length": "char_length", "character_length": "char_length", "to_jsonb": "to_jsonb"}


def _matches(kind: str, arg: Typed) -> bool:
    if arg.unknown or kind == "a":
        return True
    name = arg.type.name
    if kind == "d":
        return name in ("text", "varchar", "bpchar", "bytea")
    if kind == "t":
        return name in ("text", "varchar", "bpchar")
    if kind == "i":
        return arg.type.is_integer
    if kind in "nf":
        return arg.type.is_number
    if kind == "z":
        return name in ("timestamptz", "timestamp", "date")
    return name == _WANTED[kind].name


def _coerce(kind: str, arg: Typed) -> Typed:
    if kind in "ad":
        return known(arg)
    if kind == "i" and arg.type.is_integer:
        return arg
    if kind == "t" and not arg.unknown:
        return arg
    return cast(arg, _WANTED[kind])


def no_function(name: str, args: Args) -> SqlError:
    """No overload takes these arguments."""
    shown = ", ".join("unknown" if a.unknown else types.long_name(a.type) for a in args)
    return SqlError(f"function {name}({shown}) does not exist", "42883")


def _hash(function: str, result: Type) -> Callable[[Args], Typed]:
    def build(args: Args) -> Typed:
        if len(args) != 1 or not _matches("d", args[0]):
            raise no_function(function, args)
        arg = known(args[0])
        return Typed(f"mz_{function}({arg.sql})", result, Hash(function, arg.sql))

    return build


def _get_byte(args: Args) -> Typed:
    data, index = cast(args[0], BYTEA) if args[0].unknown else args[0], args[1]
    if data.type is not BYTEA or not index.type.is_integer:
        raise no_function("get_byte", args)
    vector = None
    if isinstance(data.constant, bytes) and isinstance(index.vector, Hash | Modulo):
        vector = Pick(data.constant, index.vector)
    return Typed(f"mz_get_byte({data.sql},{index.sql})", INT4, vector)


def _coalesce(args: Args) -> Typed:
    items = unify(args)
    if len(items) == 1:
        return items[0]
    return Typed(f"coalesce({','.join(i.sql for i in items)})", items[0].type)


def _extreme(engine: str) -> Callable[[Args], Typed]:
    def build(args: Args) -> Typed:
        items = unify(args)
        best = items[0].sql
        for item in items[1:]:
            other = item.sql
            less = f"mz_cmp({other},{best}){engine}0" if item.type.is_decimal else f"{other}{engine}{best}"
            best = f"CASE WHEN {best} IS NULL OR {less} THEN coalesce({other},{best}) ELSE {best} END"
        return Typed(best, items[0].type)

    return build


def _nullif(args: Args) -> Typed:
    left, right = unify(args)
    return Typed(f"nullif({left.sql},{right.sql})", left.type)


def _concat(args: Args) -> Typed:
    parts = [f"coalesce({cast(known(a), TEXT).sql},'')" for a in args]
    return Typed(f"({'||'.join(parts)})", TEXT)


def _round(args: Args) -> Typed:
    if args[0].type.name in ("float8", "float4") and len(args) == 1:
        return Typed(f"round({args[0].sql})", args[0].type)
    places = args[1].sql if len(args) > 1 else "0"
    return Typed(f"mz_round({cast(args[0], NUMERIC).sql},{places})", NUMERIC)


def _abs(args: Args) -> Typed:
    if args[0].type.is_decimal:
        return Typed(f"ltrim({args[0].sql},'-')", args[0].type)
    return Typed(f"abs({args[0].sql})", args[0].type)


def _floor(engine: str) -> Callable[[Args], Typed]:
    def build(args: Args) -> Typed:
        return Typed(f"{engine}({cast(args[0], NUMERIC).sql})", NUMERIC)

    return build


def _mod(args: Args) -> Typed:
    return arithmetic("%", args[0], args[1])


def _to_json(args: Args) -> Typed:
    arg = known(args[0])
    return arg if arg.type is JSONB else Typed(f"mz_to_json({arg.sql},'{arg.type.name}')", JSONB)


def _json_object(args: Args) -> Typed:
    parts = [_to_json([a]).sql if i % 2 else cast(known(a), TEXT).sql for i, a in enumerate(args)]
    return Typed(f"mz_json_object({','.join(parts)})", JSONB)


def _json_array(args: Args) -> Typed:
    return Typed(f"mz_json_array({','.join(_to_json([a]).sql for a in args)})", JSONB)


def _index(args: Args) -> Typed:
    element = types.named(args[0].type.element or "text")
    return cast(Typed(f"mz_index({args[0].sql},{args[1].sql})", TEXT), element)


def _typeof(args: Args) -> Typed:
    return constant("unknown" if args[0].unknown else types.long_name(args[0].type), TEXT)


_BUILDERS: dict[str, Callable[[Args], Typed]] = {
    "crc32": _hash("crc32", UINT4), "seahash": _hash("seahash", UINT8), "get_byte": _get_byte,
    "coalesce": _coalesce, "greatest": _extreme(">"), "least": _extreme("<"), "nullif": _nullif, "concat": _concat,
    "round": _round, "abs": _abs, "floor": _floor("mz_floor"), "ceil": _floor("mz_ceil"), "mod": _mod,
    "to_jsonb": _to_json, "jsonb_build_object": _json_object, "jsonb_build_array": _json_array,
    "mz_index": _index, "pg_typeof": _typeof,
}  # fmt: skip


def call(name: str, args: Args) -> Typed:
    """A function call by its SQL name."""
    builder = _BUILDERS.get(name)
    if builder is not None:
        return builder(args)
    signatures = _SIGNATURES.get(_ALIASES.get(name, name))
    if signatures is None:
        raise SqlError(f'function "{name}" does not exist', "42883")
    for signature in signatures:
        if len(signature.kinds) == len(args) and all(map(_matches, signature.kinds, args)):
            coerced = map(_coerce, signature.kinds, args)
            return Typed(signature.sql.format(*(f"{a.sql}" for a in coerced)), signature.result)
    raise no_function(name, args)


_DECIMAL = {"+": "mz_num_add", "-": "mz_num_sub", "*": "mz_num_mul", "/": "mz_num_div", "%": "mz_num_mod"}


def no_operator(op: str, left: Typed, right: Typed) -> SqlError:
    """No overload of an infix operator."""
    names = ["unknown" if e.unknown else types.long_name(e.type) for e in (left, right)]
    return SqlError(f"operator does not exist: {names[0]} {op} {names[1]}", "42883")


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
    if result.is_decimal:
        wrap = "mz_uint8({})" if result is UINT8 else "{}"
        floor = f"mz_floor(mz_num_div({left.sql},{right.sql}))"
        sql = floor if result is UINT8 and op == "/" else f"{_DECIMAL[op]}({left.sql},{right.sql})"
        return Typed(wrap.format(sql), result, vector)
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
        return Typed(sql, BOOL, OneOf(vectors[0].of, tuple(v.numbers[0] for v in vectors)))
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
    if op in _DECIMAL:
        return arithmetic(op, left, right)
    raise no_operator(op, left, right)


def _concatenate(left: Typed, right: Typed) -> Typed:
    left, right = known(left), known(right)
    if left.type is BYTEA and right.type is BYTEA:
        raise no_operator("||", left, right)
    return Typed(f"({cast(left, TEXT).sql}||{cast(right, TEXT).sql})", TEXT)

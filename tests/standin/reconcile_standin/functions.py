"""Materialize's functions and operators: argument types in, engine SQL and result type out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconcile_standin import operators, types
from reconcile_standin.problem import SqlError
from reconcile_standin.typed import Hash, Modulo, OrElse, Pick, Typed, cast, constant, known, unify
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
    "hmac": [Signature("ttt", BYTEA, "mz_hmac({0},{1},{2})"), Signature("bbt", BYTEA, "mz_hmac({0},{1},{2})")],
    "jsonb_strip_nulls": [Signature("j", JSONB, "mz_json_strip_nulls({0})")],
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
_NO_MATCH = "No function matches the given name and argument types. You might need to add explicit type casts."
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
    # Two blanks: so it is recorded.
    return SqlError(f"function {name}({shown}) does not exist", hint=_NO_MATCH.replace(". ", ".  "))


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
    first, second = items[0], items[1]
    vector = None
    if isinstance(first.vector, Hash | Modulo) and first.type.is_integer and len(items) == 2:
        vector = OrElse(first.vector, second.constant) if isinstance(second.constant, int) else None
    return Typed(f"coalesce({','.join(i.sql for i in items)})", first.type, vector)


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


def _concat_ws(args: Args) -> Typed:
    texts = [cast(known(a), TEXT).sql for a in args]
    if all(a.is_constant and a.constant is not None for a in args[:2]):
        # The engine's own operators: a call back into Python for every row of a large view takes seconds.
        by, first, *rest = texts
        joined = [first, *(f"coalesce({by}||{text},'')" for text in rest)]
        return Typed(f"({'||'.join(joined)})", TEXT)
    return Typed(f"mz_concat_ws({','.join(texts)})", TEXT)


def _row(args: Args) -> Typed:
    texts = []
    for arg in args:
        text = cast(known(arg), TEXT).sql
        texts.append(f"substr({text},1,1)" if arg.type is BOOL else text)
    return Typed(f"mz_row({','.join(texts)})", types.RECORD)


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
    return operators.arithmetic("%", args[0], args[1])


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
    "concat_ws": _concat_ws, "row": _row,
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
        raise SqlError(f'function "{name}" does not exist', hint=_NO_MATCH)
    for signature in signatures:
        if len(signature.kinds) == len(args) and all(map(_matches, signature.kinds, args)):
            coerced = map(_coerce, signature.kinds, args)
            return Typed(signature.sql.format(*(f"{a.sql}" for a in coerced)), signature.result)
    raise no_function(name, args)

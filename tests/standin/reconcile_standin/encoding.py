"""Values to the bytes of a DataRow or of COPY."""

from __future__ import annotations

import re
import struct
import uuid
from decimal import Decimal
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from reconcile_standin import bulk
from reconcile_standin.batches import Batch, Numbers, Rows, Values, by_columns
from reconcile_standin.types import Type, named
from reconcile_standin.values import parse_elements, parse_interval, parse_text, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reconcile_standin.engine import Row
    from reconcile_standin.plan import Column

    Encode = Callable[[Any], bytes]
    Bytes = Sequence[bytes | None]

_PG_EPOCH_MICROS = 946_684_800_000_000
_NULL = b"\xff\xff\xff\xff"
_SIZE = struct.Struct("!i")
_ROW = struct.Struct("!ciH")
# The four bytes before a value, for all common sizes.
_SIZES = [_SIZE.pack(n) for n in range(4096)]


def _raw(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def text_encoder(type_: Type) -> Encode | None:
    """The text form; None when the value is that already."""
    if type_.affinity == "TEXT":
        return None
    if type_.name in ("int2", "int4", "int8", "oid", "uint2", "uint4", "mz_timestamp"):
        return lambda value: b"%d" % value
    if type_.name == "bool":
        return (b"f", b"t").__getitem__
    return lambda value: to_text(type_, value).encode()


# Sums of hashes are sent by the ten thousand: their digits, four at a time, and their heads are looked up.
_FOUR_DIGITS = {b"%04d" % n: struct.pack("!h", n) for n in range(10000)}
_HEADS = [struct.pack("!hhHh", n, max(n - 1, 0), 0, 0) for n in range(64)]


def _integer_binary(digits: bytes) -> bytes:
    size = (len(digits) + 3) & ~3
    padded = digits.zfill(size)
    return _HEADS[size >> 2] + b"".join([_FOUR_DIGITS[padded[i : i + 4]] for i in range(0, size, 4)])


def _decimal_binary(value: Any) -> bytes:
    text = _raw(value)
    if text.isdigit() and len(text) < 200:
        return _integer_binary(text)
    number = Decimal(text.decode())
    if not number.is_finite():
        return struct.pack("!hhHh", 0, 0, 0xC000, 0)
    sign = 0x4000 if number < 0 else 0
    whole, _, fraction = f"{abs(number):f}".partition(".")
    scale = len(fraction)
    whole = whole.lstrip("0")
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    digits = [int((whole + fraction)[i : i + 4]) for i in range(0, len(whole) + len(fraction), 4)]
    weight = len(whole) // 4 - 1
    while digits and digits[0] == 0:
        digits.pop(0)
        weight -= 1
    while digits and digits[-1] == 0:
        digits.pop()
    if not digits:
        weight = 0
    return struct.pack(f"!hhHh{len(digits)}h", len(digits), weight, sign, scale, *digits)


def _interval_binary(value: Any) -> bytes:
    months, days, micros = parse_interval(_raw(value).decode())
    return struct.pack("!qii", micros, days, months)


def _date_binary(value: Any) -> bytes:
    micros = parse_text(named("timestamp"), _raw(value).decode())
    assert isinstance(micros, int)
    return struct.pack("!i", (micros - _PG_EPOCH_MICROS) // 86_400_000_000)


_BINARY: dict[str, Encode] = {
    "bool": lambda v: b"\1" if v else b"\0",
    "int2": struct.Struct("!h").pack, "int4": struct.Struct("!i").pack, "int8": struct.Struct("!q").pack,
    "oid": struct.Struct("!I").pack, "uint2": struct.Struct("!H").pack, "uint4": struct.Struct("!I").pack,
    "uint8": lambda v: struct.pack("!Q", int(v)),
    "float8": lambda v: struct.pack("!d", float(v)), "float4": lambda v: struct.pack("!f", float(v)),
    "numeric": _decimal_binary, "interval": _interval_binary, "date": _date_binary,
    "timestamp": lambda v: struct.pack("!q", v - _PG_EPOCH_MICROS),
    "timestamptz": lambda v: struct.pack("!q", v - _PG_EPOCH_MICROS),
    "uuid": lambda v: uuid.UUID(_raw(v).decode()).bytes,
    "jsonb": lambda v: b"\1" + _raw(v),
    "mz_timestamp": lambda v: b"%d" % v,
}  # fmt: skip


def _array_binary(element: Type) -> Encode:
    encode = binary_encoder(element) or _raw

    def build(value: Any) -> bytes:
        items = parse_elements(_raw(value).decode())
        head = struct.pack("!iiI", 1 if items else 0, int(None in items), element.oid)
        if not items:
            return head
        parts = [head, struct.pack("!ii", len(items), 1)]
        for item in items:
            if item is None:
                parts.append(_NULL)
            else:
                data = encode(parse_text(element, item))
                parts.append(_SIZE.pack(len(data)) + data)
        return b"".join(parts)

    return build


def binary_encoder(type_: Type) -> Encode | None:
    """The binary form; None when the value is that already."""
    if type_.element is not None:
        return _array_binary(named(type_.element))
    return _BINARY.get(type_.name)


class Form(NamedTuple):
    """How a column goes over the wire; encode is None when its values are bytes of that form already."""

    type: str
    binary: bool
    encode: Encode | None


def encoders(columns: Sequence[Column], formats: Sequence[int]) -> list[Form]:
    """One per column; formats are 0 for text, 1 for binary: none, one for all, or one each."""
    each = list(formats) if len(formats) == len(columns) else [formats[0] if formats else 0] * len(columns)
    return [
        Form(c.type.name, bool(f), binary_encoder(c.type) if f else text_encoder(c.type))
        for c, f in zip(columns, each, strict=True)
    ]


def _column(values: Values, form: Form) -> Bytes:
    """A column's values as bytes or None."""
    if isinstance(values, Numbers):
        if form.binary and form.type in bulk.FIXED and values.valid.all():
            return bulk.packed(values, form.type)
        values = values.list()
    if form.encode is not None:
        encode = form.encode
        if None in values:
            return [None if v is None else encode(v) for v in values]
        return list(map(encode, values))
    if set(map(type, values)) <= _BYTES_OR_NONE:
        return values
    return [v if v is None or isinstance(v, bytes) else str(v).encode() for v in values]


_BYTES_OR_NONE = {bytes, type(None)}


def _columns(rows: Rows, forms: list[Form]) -> list[Bytes]:
    return [_column(values, form) for values, form in zip(by_columns(rows), forms, strict=True)]


def _transformed(rows: Rows, forms: list[Form]) -> Iterator[tuple[bytes | None, ...]]:
    """The rows with every value as bytes or None."""
    return zip(*_columns(rows, forms), strict=True)


def _size(value: bytes) -> bytes:
    n = len(value)
    return _SIZES[n] if n < 4096 else _SIZE.pack(n)


# The beginnings of DataRows, by the number of columns and the size of what follows.
_HEADS_OF: dict[int, list[bytes]] = {}


def _heads(width: int) -> list[bytes]:
    if width not in _HEADS_OF:
        _HEADS_OF[width] = [_ROW.pack(b"D", n + 4 * width + 6, width) for n in range(4096)]
    return _HEADS_OF[width]


def _numbers(rows: Rows) -> list[Numbers] | None:
    return bulk.values_of(rows) if isinstance(rows, Batch) else None


def data_rows(rows: Rows, forms: list[Form]) -> bytes:
    """DataRow messages."""
    if not rows:
        return b""
    if not forms:
        return _ROW.pack(b"D", 6, 0) * len(rows)
    numbers = _numbers(rows)
    if numbers is not None:
        return bulk.data_rows(numbers, [(f.type, f.binary) for f in forms])
    columns = _columns(rows, forms)
    if all(None not in c for c in columns):
        sizes = [list(map(len, c)) for c in columns]  # type: ignore[arg-type]
        totals = list(map(sum, zip(*sizes, strict=True)))
        if max(totals) < 4096:
            # The usual case, without a step of the interpreter per row.
            parts: list[Any] = [map(_heads(len(forms)).__getitem__, totals)]
            for size, column in zip(sizes, columns, strict=True):
                parts += [map(_SIZES.__getitem__, size), column]
            return b"".join(chain.from_iterable(zip(*parts, strict=True)))
    out = []
    for row in zip(*columns, strict=True):
        body = b"".join([_NULL if v is None else _size(v) + v for v in row])
        out.append(_ROW.pack(b"D", len(body) + 6, len(forms)))
        out.append(body)
    return b"".join(out)


def _copy_message(payload: bytes) -> bytes:
    return b"d" + _SIZE.pack(len(payload) + 4) + payload


_ESCAPABLE = re.compile(rb"[\\\n\r\t]")
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}


def _escaped(value: bytes | None) -> bytes:
    if value is None:
        return b"\\N"
    if _ESCAPABLE.search(value) is None:
        return value
    return _ESCAPABLE.sub(lambda m: _ESCAPES[m.group()], value)


_LINE_HEADS = [b"d" + _SIZE.pack(n + 4) for n in range(4096)]


def _plain(column: Bytes) -> bool:
    if None in column:
        return False
    together = b"".join(column)  # type: ignore[arg-type]
    return not any(character in together for character in _ESCAPES)


def copy_text(rows: Rows, forms: list[Form]) -> bytes:
    """CopyData messages in text format, one per row."""
    numbers = _numbers(rows)
    if numbers is not None:
        return bulk.copy_text(numbers)
    columns = _columns(rows, forms)
    columns = [c if _plain(c) else list(map(_escaped, c)) for c in columns]
    sizes: list[Any] = [map(len, c) for c in columns]  # type: ignore[arg-type]
    totals = list(map(sum, zip(repeat(len(columns)), *sizes)))
    heads = map(_LINE_HEADS.__getitem__, totals) if max(totals, default=0) < 4096 else map(_line_head, totals)
    parts: list[Any] = [heads]
    for column in columns:
        parts += [column, repeat(b"\t")]
    parts[-1] = repeat(b"\n")
    return b"".join(chain.from_iterable(zip(*parts)))  # noqa: B905 - repeat has no end


def _line_head(size: int) -> bytes:
    return b"d" + _SIZE.pack(size + 4)


_CSV_SPECIAL = re.compile(rb'[",\n\r\\]')


def _csv_field(value: bytes | None) -> bytes:
    if value is None:
        return b""
    if value == b"" or (_CSV_SPECIAL.search(value) is not None and value[:2] != b"\\x"):
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value


def copy_csv(rows: Rows, forms: list[Form]) -> bytes:
    """CopyData messages in CSV, one per row."""
    return b"".join(_copy_message(b",".join(map(_csv_field, row)) + b"\n") for row in _transformed(rows, forms))


COPY_BINARY_HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
COPY_BINARY_TRAILER = _copy_message(b"\xff\xff")


class CopyBinary:
    """CopyData messages in binary format: the header rides with the first row."""

    def __init__(self) -> None:
        self._header = COPY_BINARY_HEADER

    def __call__(self, rows: Rows, forms: list[Form]) -> bytes:
        out = []
        for row in _transformed(rows, forms):
            body = b"".join([_NULL if v is None else _size(v) + v for v in row])
            out.append(_copy_message(self._header + struct.pack("!H", len(row)) + body))
            self._header = b""
        return b"".join(out)

    def finish(self) -> bytes:
        """The trailer."""
        return (_copy_message(self._header) if self._header else b"") + COPY_BINARY_TRAILER


# A row's place among others, as Materialize orders rows it has consolidated: shorter encodings first, then bytes.
def _sort_field(value: Any) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, int):
        size = (value.bit_length() + 8) // 8 if value else 0
        return bytes([20 + size]) + value.to_bytes(size, "little", signed=True) if value else b"\x14"
    if isinstance(value, float):
        return b"\x30" + struct.pack(">d", value)
    data: bytes = value
    return b"\x40" + len(data).to_bytes(1 if len(data) < 256 else 4, "little") + data


def sort_key(row: Row) -> tuple[int, bytes]:
    """The key of that order."""
    data = b"".join([_sort_field(v) for v in row])
    return len(data), data

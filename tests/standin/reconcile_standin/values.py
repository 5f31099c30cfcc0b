"""Values to and from text: Materialize's own forms."""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from reconcile_standin import jsonb
from reconcile_standin.jsonb import decimal_text
from reconcile_standin.problem import SqlError
from reconcile_standin.types import RANGES, Type, long_name, named

if TYPE_CHECKING:
    from collections.abc import Callable

Value = None | int | float | str | bytes

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)
_CYCLE_YEARS, _CYCLE_MICROS = 400, 146_097 * 86_400_000_000
"""After these the calendar repeats itself: by them, years that Python does not know are those that it knows."""
_FIRST = (dt.datetime(1, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MICRO


def invalid(type_name: str, text: str, detail: str = "") -> SqlError:
    """A text that is not a value of its type."""
    tail = f": {detail}" if detail else ""
    return SqlError(f'invalid input syntax for type {type_name}{tail}: "{text}"')


def parse_decimal(text: str) -> str:
    """Canonical text of any decimal text."""
    try:
        return decimal_text(Decimal(text.strip()))
    except InvalidOperation:
        raise invalid("numeric", text) from None


def _parse_int(name: str, long: str) -> Callable[[str], Value]:
    low, high = RANGES[name]

    def parse(text: str) -> Value:
        try:
            number = int(text.strip())
        except ValueError:
            raise invalid(long, text, "invalid digit found in string") from None
        if not low <= number <= high:
            raise SqlError(f'"{text}" {long} out of range')
        return str(number) if name == "uint8" else number

    return parse


def _parse_bool(text: str) -> Value:
    folded = text.strip().lower()
    if folded in ("t", "true", "yes", "on", "1", "y"):
        return 1
    if folded in ("f", "false", "no", "off", "0", "n"):
        return 0
    raise invalid("boolean", text)


def _parse_float(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        raise invalid("double precision", text) from None
    return "NaN" if math.isnan(number) else number  # SQLite has no NaN


_ESCAPED_BYTE = re.compile(rb"\\(\\|[0-7]{3})")


def _parse_bytea(text: str) -> Value:
    if text.startswith("\\x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise invalid("bytea", text[:40]) from None
    return _ESCAPED_BYTE.sub(lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1], 8)]), text.encode())


_TIMESTAMP = re.compile(
    r"^\s*(\d{4,})-(\d{1,2})-(\d{1,2})(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?)?"
    r"\s*(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)?\s*(BC)?\s*$",
    re.IGNORECASE,
)


def _moment(text: str, zoned: bool, type_name: str) -> int:
    match = _TIMESTAMP.match(text)
    if match is None:
        raise invalid(type_name, text)
    year, month, day, hour, minute, second = (int(g or 0) for g in match.groups()[:6])
    micros = round(float(match[7] or 0) * 1e6)
    cycles, year = divmod((1 - year if match[9] else year) - 1, _CYCLE_YEARS)
    try:
        moment = dt.datetime(year + 1, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        raise invalid(type_name, text) from None
    offset = 0
    zone = match[8]
    if zoned and zone and zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(2, "0")
        digits = digits if len(digits) in (2, 4) else digits.zfill(4)
        offset = (int(digits[:2]) * 60 + int(digits[2:] or 0)) * (60 if zone[0] == "+" else -60)
    return (moment - _EPOCH) // _MICRO + cycles * _CYCLE_MICROS + micros - offset * 1_000_000


def _parse_date(text: str) -> Value:
    date, _, era = _written(_moment(text, zoned=False, type_name="date"))
    return date + era


def _written(micros: int) -> tuple[str, str, str]:
    """Date, time without trailing zeros, and ' BC' for years before the first."""
    cycles, rest = divmod(micros - _FIRST, _CYCLE_MICROS)
    moment = _EPOCH + (rest + _FIRST) * _MICRO
    year = moment.year + cycles * _CYCLE_YEARS
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    date = f"{year if year > 0 else 1 - year:04d}-{moment.month:02d}-{moment.day:02d}"
    return date, moment.strftime("%H:%M:%S") + fraction, "" if year > 0 else " BC"


def format_timestamp(micros: int, zone: str = "") -> str:
    """'2026-01-02 03:04:05.678', '12026-01-02 03:04:05+00', '0044-03-15 12:00:00 BC'."""
    date, time, era = _written(micros)
    return f"{date} {time}{zone}{era}"


_INTERVAL_PART = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([a-zA-Z]+)|([+-]?)(\d+):(\d+)(?::(\d+(?:\.\d+)?))?")
_MONTHS = {"year": 12, "month": 1, "mon": 1, "decade": 120, "century": 1200}
_DAYS = {"day": 1, "d": 1, "week": 7}
_MICROS = {
    "h": 3_600_000_000, "hr": 3_600_000_000, "hour": 3_600_000_000, "m": 60_000_000, "min": 60_000_000,
    "minute": 60_000_000, "s": 1_000_000, "sec": 1_000_000, "second": 1_000_000, "ms": 1000, "millisecond": 1000,
    "microsecond": 1, "us": 1,
}  # fmt: skip


def parse_interval(text: str) -> tuple[int, int, int]:
    """(months, days, microseconds)."""
    months = days = micros = 0
    matched = False
    for part in _INTERVAL_PART.finditer(text):
        matched = True
        if part[1] is None:
            sign = -1 if part[3] == "-" else 1
            seconds = int(part[4]) * 3600 + int(part[5]) * 60
            micros += sign * (seconds * 1_000_000 + round(float(part[6] or 0) * 1e6))
            continue
        amount, unit = float(part[1]), part[2].lower()
        unit = unit if unit in ("s", "ms", "us") else unit.rstrip("s")
        if unit in _MONTHS:
            months += round(amount * _MONTHS[unit])
        elif unit in _DAYS:
            days += int(amount * _DAYS[unit])
        elif unit in _MICROS:
            micros += round(amount * _MICROS[unit])
        else:
            raise invalid("interval", text)
    if not matched:
        raise invalid("interval", text)
    return months, days, micros


def format_interval(months: int, days: int, micros: int) -> str:
    """'1 day 02:03:04'."""
    parts = []
    years, rest = divmod(abs(months), 12)
    sign = -1 if months < 0 else 1
    for amount, unit in ((years * sign, "year"), (rest * sign, "month"), (days, "day")):
        if amount:
            parts.append(f"{amount} {unit}{'' if abs(amount) == 1 else 's'}")
    if micros or not parts:
        seconds, fraction = divmod(abs(micros), 1_000_000)
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if fraction:
            clock += f".{fraction:06d}".rstrip("0")
        parts.append(("-" if micros < 0 else "") + clock)
    return " ".join(parts)


def _parse_json(text: str) -> Value:
    try:
        return jsonb.dumps(jsonb.loads(text))
    except ValueError as error:
        raise invalid("jsonb", text, str(error)) from None


def _parse_uuid(text: str) -> Value:
    digits = text.strip().strip("{}").replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        raise invalid("uuid", text)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


_PLAIN_ELEMENT = re.compile(r"[^\s{},\"\\]+")


def format_elements(items: list[str | None]) -> str:
    """'{a,"b,c",NULL}' of element texts."""
    out = []
    for item in items:
        if item is None:
            out.append("NULL")
        elif _PLAIN_ELEMENT.fullmatch(item) and item.lower() != "null":
            out.append(item)
        else:
            escaped = item.replace("\\", "\\\\").replace('"', '\\"')
            out.append(f'"{escaped}"')
    return "{" + ",".join(out) + "}"


_ELEMENT = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,{}]*?))\s*(,|$)', re.DOTALL)


def parse_elements(text: str) -> list[str | None]:
    """The element texts of '{…}' (one dimension)."""
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")):
        raise invalid("array", text)
    body = body[1:-1]
    items: list[str | None] = []
    at = 0
    while at < len(body) or (items and body[at - 1 : at] == ","):
        match = _ELEMENT.match(body, at)
        if match is None:
            raise invalid("array", text)
        if match[1] is not None:
            items.append(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL))
        else:
            items.append(None if match[2].lower() == "null" else match[2])
        at = match.end()
        if match[3] == "":
            break
    return items


_PARSERS: dict[str, Callable[[str], Value]] = {
    **{name: _parse_int(name, {"int2": "smallint", "int4": "integer", "int8": "bigint"}.get(name, name))
       for name in RANGES},
    "text": str, "varchar": str, "bpchar": str,
    "bool": _parse_bool, "float8": _parse_float, "float4": _parse_float, "numeric": parse_decimal,
    "bytea": _parse_bytea, "jsonb": _parse_json, "uuid": _parse_uuid, "date": _parse_date,
    "timestamp": lambda text: _moment(text, zoned=False, type_name="timestamp"),
    "timestamptz": lambda text: _moment(text, zoned=True, type_name="timestamp with time zone"),
    "interval": lambda text: format_interval(*parse_interval(text)),
}  # fmt: skip


def parse_text(type_: Type, text: str) -> Value:
    """The engine's value of a text."""
    if type_.element is not None:
        element = named(type_.element)
        items = [None if i is None else to_text(element, parse_text(element, i)) for i in parse_elements(text)]
        return format_elements(items)
    parser = _PARSERS.get(type_.name)
    if parser is None:
        raise SqlError(f"CAST does not support casting from text to {long_name(type_)}")
    return parser(text)


def float_text(number: float) -> str:
    """Shortest text that reads back the same."""
    if math.isnan(number):
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    text = repr(number)
    return text[:-2] if text.endswith(".0") else text


def to_text(type_: Type, value: Value) -> str:
    """The text of a value in a row; booleans are t and f."""
    name = type_.name
    if name == "bool":
        return "t" if value else "f"
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return "\\x" + value.hex() if name == "bytea" else value.decode()
    if isinstance(value, float):
        return float_text(value)
    assert isinstance(value, int)
    if name == "timestamp":
        return format_timestamp(value)
    if name == "timestamptz":
        return format_timestamp(value, "+00")
    return float_text(float(value)) if name in ("float8", "float4") else str(value)


def cast_text(type_: Type, value: Value) -> str:
    """The text of a value cast to text: as in a row, but true and false."""
    return ("true" if value else "false") if type_.name == "bool" else to_text(type_, value)

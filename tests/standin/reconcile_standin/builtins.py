"""The engine's own functions in Python: what SQLite lacks or does differently."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import math
import re
import zlib
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

from reconcile_standin import jsonb, values
from reconcile_standin.hashing import murmur2, seahash
from reconcile_standin.problem import SqlError
from reconcile_standin.types import RANGES, named

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMERIC = Context(prec=39, rounding=ROUND_HALF_EVEN)
Value = values.Value


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _error(message: str) -> Value:
    raise SqlError.evaluation(message)


def _num(op: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Any, Any], Value]:
    def call(a: Any, b: Any) -> Value:
        return None if a is None or b is None else jsonb.decimal_text(op(Decimal(a), Decimal(b)))

    return call


def _divide(a: Decimal, b: Decimal) -> Decimal:
    if b == 0:
        raise SqlError.evaluation("division by zero")
    return _NUMERIC.divide(a, b)


def _remainder(a: Decimal, b: Decimal) -> Decimal:
    if b == 0:
        raise SqlError.evaluation("division by zero")
    return _NUMERIC.remainder(a, b)


def _compare(a: Any, b: Any) -> Value:
    if a is None or b is None:
        return None
    left, right = Decimal(a), Decimal(b)
    return (left > right) - (left < right)


def _range(value: int | None, low: int, high: int, label: str) -> Value:
    if value is not None and not low <= value <= high:
        raise SqlError.evaluation(f'"{value}" {label} out of range')
    return value


def _num_int(value: Any, low: int, high: int, label: str) -> Value:
    if value is None:
        return None
    return _range(int(Decimal(value).to_integral_value(ROUND_HALF_UP)), low, high, label)


def _float_int(value: float | None, low: int, high: int, label: str) -> Value:
    if value is None:
        return None
    if not math.isfinite(value):
        raise SqlError.evaluation(f'"{value}" {label} out of range')
    return _range(round(value), low, high, label)


def _uint8(value: Any) -> Value:
    if value is None:
        return None
    number = int(Decimal(value).to_integral_value(ROUND_HALF_UP))
    if not 0 <= number <= RANGES["uint8"][1]:
        raise SqlError.evaluation(f'"{value}" uint8 out of range')
    return str(number)


_UINT8 = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a // b,
    "%": lambda a, b: a % b, "&": lambda a, b: a & b, "|": lambda a, b: a | b, "#": lambda a, b: a ^ b,
}  # fmt: skip


def _uint8_op(op: str, left: str | None, right: str | None) -> Value:
    if left is None or right is None:
        return None
    if op in "/%" and int(right) == 0:
        raise SqlError("division by zero")
    number = _UINT8[op](int(left), int(right))
    if not 0 <= number <= RANGES["uint8"][1]:
        raise SqlError(f'"{left} {op} {right}" uint8 out of range')
    return str(number)


def _row(*fields: str | None) -> Value:
    """The text of a record."""
    texts = []
    for text in fields:
        plain = text is None or re.fullmatch(r'[^\s(),"\\]+', text)
        texts.append((text or "") if plain else '"' + str(text).replace("\\", "\\\\").replace('"', '""') + '"')
    return f"({','.join(texts)})"


def _encode(data: bytes | None, form: str) -> Value:
    if data is None:
        return None
    if form == "hex":
        return data.hex()
    if form == "base64":
        text = base64.b64encode(data).decode()
        return "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    if form == "escape":
        return "".join(chr(b) if 32 <= b < 127 and b != 92 else ("\\\\" if b == 92 else f"\\{b:03o}") for b in data)
    raise SqlError.evaluation(f"invalid encoding name '{form}'")


def _decode(text: str | None, form: str) -> Value:
    if text is None:
        return None
    try:
        if form == "hex":
            return bytes.fromhex(text)
        if form == "base64":
            return base64.b64decode(text)
    except (ValueError, binascii.Error) as error:
        raise SqlError.evaluation(str(error)) from None
    return values.parse_text(named("bytea"), text)


def _get_byte(data: bytes | None, index: int | None) -> Value:
    if data is None or index is None:
        return None
    if not 0 <= index < len(data):
        raise SqlError.evaluation(f"index {index} out of valid range, 0..{len(data) - 1}")
    return data[index]


@functools.lru_cache(256)
def _pattern(pattern: str, fold: bool) -> re.Pattern[str]:
    parts, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at]))
        else:
            parts.append({"%": ".*", "_": "."}.get(char, re.escape(char)))
        at += 1
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if fold else 0))


def _like(text: str | None, pattern: str | None, fold: int) -> Value:
    if text is None or pattern is None:
        return None
    return int(_pattern(pattern, bool(fold)).fullmatch(text) is not None)


def _regex(text: str | None, pattern: str | None, fold: int) -> Value:
    if text is None or pattern is None:
        return None
    return int(re.search(pattern, text, re.IGNORECASE if fold else 0) is not None)


def _pad(text: str | None, size: int | None, fill: str | None, left: int) -> Value:
    if text is None or size is None or fill is None:
        return None
    if len(text) >= size:
        return text[: max(size, 0)]
    padding = (fill * size)[: size - len(text)]
    return padding + text if left else text + padding


def _split_part(text: str | None, separator: str | None, index: int | None) -> Value:
    if text is None or separator is None or index is None:
        return None
    parts = text.split(separator) if separator else [text]
    return parts[index - 1] if 0 < index <= len(parts) else ""


def _chr(code: int | None) -> Value:
    if code is None:
        return None
    if code == 0:
        raise SqlError("null character not permitted", "54000")
    return chr(code)


def _round(value: Any, places: int) -> Value:
    if value is None:
        return None
    return jsonb.decimal_text(Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def _to_json(value: Value, name: str) -> Value:
    return None if value is None else jsonb.of_text(values.cast_text(named(name), value), name)


def _interval_add(micros: int | None, interval: str | None, sign: int) -> Value:
    if micros is None or interval is None:
        return None
    months, days, rest = values.parse_interval(interval)
    if months:
        text = values.format_timestamp(micros)
        total = int(text[:4]) * 12 + int(text[5:7]) - 1 + sign * months
        text = f"{total // 12:04d}-{total % 12 + 1:02d}{text[7:]}"
        shifted = values.parse_text(named("timestamp"), text)
        assert isinstance(shifted, int)
        micros = shifted
    return micros + sign * (days * 86_400_000_000 + rest)


def _trunc(unit: str, micros: int | None) -> Value:
    if micros is None:
        return None
    text = values.format_timestamp(micros)
    cut = {"year": 4, "month": 7, "day": 10, "hour": 13, "minute": 16, "second": 19}.get(unit.lower())
    if cut is None:
        raise SqlError.evaluation(f"unit '{unit}' not recognized")
    return values.parse_text(named("timestamp"), text[:cut] + "0001-01-01 00:00:00"[cut:])


def _extract(unit: str, micros: int | None) -> Value:
    if micros is None:
        return None
    if unit.lower() == "epoch":
        return jsonb.decimal_text(Decimal(micros) / 1_000_000)
    text = values.format_timestamp(micros)
    spans = {"year": (0, 4), "month": (5, 7), "day": (8, 10), "hour": (11, 13), "minute": (14, 16), "second": (17, 26)}
    start, end = spans[unit.lower()]
    return values.parse_decimal(text[start:end])


def _elements(*items: str | None) -> Value:
    return values.format_elements(list(items))


def _index(text: str | None, index: int | None) -> Value:
    if text is None or index is None:
        return None
    items = values.parse_elements(text)
    return items[index - 1] if 0 < index <= len(items) else None


def _strict(function: Callable[..., Value]) -> Callable[..., Value]:
    def call(*args: Any) -> Value:
        return None if any(a is None for a in args) else function(*args)

    return call


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "mz_error": (1, _error),
    "mz_crc32": (1, _strict(lambda data: zlib.crc32(_bytes(data)))),
    "mz_seahash": (1, _strict(lambda data: str(seahash(_bytes(data))))),
    "mz_murmur2": (1, _strict(lambda data: murmur2(_bytes(data)))),
    "mz_md5": (1, _strict(lambda data: hashlib.md5(_bytes(data), usedforsecurity=False).hexdigest())),
    "mz_digest": (2, _strict(lambda data, name: hashlib.new(name, _bytes(data)).digest())),
    "mz_hmac": (3, _strict(lambda data, key, name: hmac.digest(_bytes(key), _bytes(data), name))),
    "mz_concat_ws": (-1, lambda by, *texts: None if by is None else by.join(t for t in texts if t is not None)),
    "mz_row": (-1, _row),
    "mz_num_add": (2, _num(_NUMERIC.add)),
    "mz_num_sub": (2, _num(_NUMERIC.subtract)),
    "mz_num_mul": (2, _num(_NUMERIC.multiply)),
    "mz_num_div": (2, _num(_divide)),
    "mz_num_mod": (2, _num(_remainder)),
    "mz_cmp": (2, _compare),
    "mz_range": (4, _range),
    "mz_num_int": (4, _num_int),
    "mz_float_int": (4, _float_int),
    "mz_num_float": (1, _strict(lambda v: v if v == "NaN" else float(v))),
    "mz_float_num": (1, _strict(lambda v: v if v == "NaN" else jsonb.float_numeric(repr(v)))),
    "mz_uint8": (1, _uint8),
    "mz_uint8_op": (3, _uint8_op),
    "mz_text": (2, lambda v, name: None if v is None else values.cast_text(named(name), v)),
    "mz_parse": (2, lambda v, name: None if v is None else values.parse_text(named(name), v)),
    "mz_encode": (2, _encode),
    "mz_decode": (2, _decode),
    "mz_get_byte": (2, _get_byte),
    "mz_like": (3, _like),
    "mz_regex": (3, _regex),
    "mz_pad": (4, _pad),
    "mz_lower": (1, _strict(str.lower)),
    "mz_upper": (1, _strict(str.upper)),
    "mz_repeat": (2, _strict(lambda text, n: text * n)),
    "mz_reverse": (1, _strict(lambda text: text[::-1])),
    "mz_split_part": (3, _split_part),
    "mz_chr": (1, _chr),
    "mz_round": (2, _round),
    "mz_to_json": (2, _to_json),
    **jsonb.FUNCTIONS,
    "mz_interval_add": (3, _interval_add),
    "mz_trunc": (2, _trunc),
    "mz_extract": (2, _extract),
    "mz_elements": (-1, _elements),
    "mz_index": (2, _index),
    "mz_floor": (1, _strict(lambda v: jsonb.decimal_text(Decimal(v).to_integral_value("ROUND_FLOOR")))),
    "mz_ceil": (1, _strict(lambda v: jsonb.decimal_text(Decimal(v).to_integral_value("ROUND_CEILING")))),
    "mz_sqrt": (1, _strict(lambda v: math.sqrt(float(v)))),
    "mz_power": (2, _strict(lambda a, b: float(a) ** float(b))),
}

"""jsonb: its values, its text in Materialize's own form, and the functions over it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Text = str | None
_NUMERIC_PLACES = 39
_AS_THEY_ARE = ("int2", "int4", "int8", "uint2", "uint4", "uint8", "jsonb")


def decimal_text(number: Decimal) -> str:
    """Canonical text of a numeric: no exponent, no trailing zeros."""
    if not number.is_finite():
        return "NaN" if number.is_nan() else ("Infinity" if number > 0 else "-Infinity")
    if number == number.to_integral_value():
        return str(int(number))
    return f"{number.normalize():f}"


def float_numeric(text: str) -> str:
    """The numeric of a float's text: at most 39 places (repr/src/adt/numeric.rs: munge_numeric), so tiny ones are 0."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -_NUMERIC_PLACES:
        number = number.quantize(Decimal(1).scaleb(-_NUMERIC_PLACES))
    return decimal_text(number)


def loads(text: str) -> Any:
    """The document of a text. Its numbers are decimals, as in Materialize: 1.0 is 1. Raises ValueError."""
    return json.loads(text, parse_float=Decimal)


def dumps(document: Any) -> str:
    """The text of a document: sorted keys, no spaces, numbers in canonical form."""
    if isinstance(document, dict):
        return "{" + ",".join(f"{_quoted(key)}:{dumps(document[key])}" for key in sorted(document)) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(dumps, document)) + "]"
    if isinstance(document, str):
        return _quoted(document)
    return decimal_text(document) if isinstance(document, Decimal) else json.dumps(document)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def of_text(text: str, type_name: str) -> str:
    """to_jsonb of a value, given its text and its type."""
    if type_name in (*_AS_THEY_ARE, "bool"):
        return text
    if type_name in ("numeric", "float8", "float4") and text.lstrip("-") not in ("NaN", "Infinity"):
        return decimal_text(Decimal(text)) if type_name == "numeric" else float_numeric(text)
    return _quoted(text)


def _get(document: Text, key: str | int | None, as_text: int) -> Text:
    if document is None or key is None:
        return None
    try:
        found = loads(document)[key]
    except (KeyError, IndexError, TypeError):
        return None
    if not as_text:
        return dumps(found)
    if found is None:
        return None
    return found if isinstance(found, str) else dumps(found)


def _object(*args: Text) -> Text:
    pairs = zip(args[::2], args[1::2], strict=True)
    if any(key is None for key in args[::2]):
        raise ValueError("key cannot be null")
    return dumps({key: None if v is None else loads(v) for key, v in pairs})


def _array(*args: Text) -> Text:
    return dumps([None if v is None else loads(v) for v in args])


def _strip_nulls(document: Text) -> Text:
    return None if document is None else dumps(_without_nulls(loads(document)))


def _without_nulls(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_nulls(value) for key, value in document.items() if value is not None}
    return [_without_nulls(one) for one in document] if isinstance(document, list) else document


FUNCTIONS: dict[str, tuple[int, Callable[..., Text]]] = {
    "mz_json_get": (3, _get),
    "mz_json_object": (-1, _object),
    "mz_json_array": (-1, _array),
    "mz_json_strip_nulls": (1, _strip_nulls),
}

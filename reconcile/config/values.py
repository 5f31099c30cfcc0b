"""Kinds of values: how a scalar's text is parsed and written, and the message for an invalid one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from msgspec import UNSET, Struct, StructMeta, field

from reconcile.core.times import format_duration, parse_duration

Raw = str | bool | tuple[str, ...]
"""A value in a file, variable or flag: text, YAML's true and false, or a list of texts."""


class Wrong(ValueError):  # noqa: N818 - the caller knows the place and turns it into a ConfigError
    """An invalid value, with its own message; never quotes a secret."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class Kind(Struct, frozen=True):
    """`parse` raises ValueError (the message is built from `expects`) or Wrong (with its own message)."""

    label: str
    """Name in the manual's tables: 'duration'."""
    expects: str
    """Description in messages: 'a duration from 1s to 1h'."""
    parse: Callable[[Raw], object]
    hint: str
    write: Callable[[object], str] = str
    """Format a value for a configuration file."""
    many: bool = False
    """Whether it takes a list; a single text (in variables and flags: with commas) counts as one."""


class Key(Struct, frozen=True):
    """One key of the configuration. `field`: the settings' name for it; '' if it sets fields of other names."""

    kind: Kind
    doc: str
    name: str = ""
    field: str = ""
    default: object = None
    absent: str = "–"
    """Shown in the manual for keys without a default."""
    secret: bool = False
    older: str = ""
    """A former name, still accepted."""
    place: str = ""
    """mz-redis-sync's section for a key that belongs to a view."""
    common: bool = True
    """Whether a view's key may stand in view_defaults."""


def key(kind: Kind, doc: str, *, default: Any = UNSET, **rest: Any) -> Any:
    """Declare a field of a `Configured` class that is a key; without a default it is required. `rest` as in Key."""
    return Key(kind, doc, default=default, **rest)


class _Declared(StructMeta):
    """Keeps the keys that a class declares; its fields have their defaults."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> _Declared:
        keys = {field: one for field, one in namespace.items() if isinstance(one, Key)}
        fields = {field: one for field, one in namespace.items() if field not in keys}
        fields |= {field: one.default for field, one in keys.items() if one.default is not UNSET}
        return super().__new__(cls, name, bases, fields | {"KEYS": keys}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(key, field))
class Configured(Struct, metaclass=_Declared, frozen=True):
    """Settings whose fields are keys of the configuration. KEYS: field → its key."""

    KEYS: ClassVar[dict[str, Key]]


def _text(raw: Raw) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError
    return raw


def _line(raw: Raw) -> str:
    text = _text(raw)
    if text.endswith("\n"):
        raise Wrong("ends in a newline", "remove it (use printf '%s' instead of echo; |- instead of | in YAML)")
    if any(c in text for c in "\r\n\0"):
        raise ValueError
    return text


def _secret(raw: Raw) -> str:
    text = _text(raw)
    if text.endswith("\n"):
        raise Wrong(
            "the password ends in a newline", "remove it (use printf '%s' instead of echo; |- instead of | in YAML)"
        )
    if "\0" in text:
        raise ValueError
    return text


_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
HOST_MAX = 253


def host(text: str) -> str:
    """Parse a host name, or an address without brackets. Raises Wrong, which quotes nothing."""
    if "://" in text or "@" in text:
        raise Wrong("not a host name", "give a whole URL as url")
    if text.count(":") == 1:
        raise Wrong("a host name cannot contain a port", "give the port under its own key: port")
    if text.startswith("["):
        raise Wrong("an IPv6 address takes no brackets here", "write ::1 instead of [::1]")
    if ":" in text:
        return _ipv6(text)
    labels = text.removesuffix(".").split(".")
    if "" in labels:
        raise Wrong("a host name with nothing between two dots, or at its end", "is a variable in it empty?")
    if len(text) > HOST_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise Wrong("not a host name", "letters, digits and '-' between dots, at most 63 each")
    return text


def _ipv6(text: str) -> str:
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise Wrong("not a host name or an IPv6 address", "for example redis.example.com, 10.0.0.1 or ::1") from None
    return text


def _host(raw: Raw) -> str:
    return host(_text(raw))


def _host_or_folder(raw: Raw) -> str:
    text = _text(raw)
    return str(_line(text)) if text.startswith("/") else host(text)


def port(text: str) -> int:
    """Raises Wrong, which does not quote the text: in a URL it may be part of a password."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise Wrong("the port is not a number from 1 to 65535", "for example 6379")
    return int(text)


def optional(kind: Kind) -> Kind:
    """Return this kind, with an empty text (`password: ''`, `${X:-}`) meaning not set."""
    return Kind(
        kind.label, kind.expects, lambda raw: None if raw == "" else kind.parse(raw), kind.hint, kind.write, kind.many
    )


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def boolean(raw: Raw) -> bool:
    """Raises ValueError."""
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[raw.lower()]


def whole(least: int, most: int, label: str = "number") -> Kind:
    """Return the kind of whole numbers in a range, both ends included."""

    def parse(raw: Raw) -> int:
        text = _text(raw).strip()
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Kind(label, f"a whole number from {least} to {most}", parse, "digits only")


def _fraction(raw: Raw) -> float:
    text = _text(raw).strip()
    if not re.fullmatch(r"[0-9]{0,18}\.?[0-9]{0,18}", text) or text in ("", ".") or float(text) > 1:
        raise ValueError
    return float(text)


def _is_off(raw: Raw) -> bool:
    return raw is False or (isinstance(raw, str) and raw.lower() in ("off", "none", "never"))


def or_off(kind: Kind) -> Kind:
    """Return this kind, with 'off' (and YAML's false) meaning None."""
    return Kind(
        f"{kind.label} or `off`",
        f"{kind.expects} or off",
        lambda raw: None if _is_off(raw) else kind.parse(raw),
        kind.hint,
        lambda value: "off" if value is None else kind.write(value),
    )


def duration(least_s: float, most_s: float) -> Kind:
    """Return the kind of durations, in seconds."""

    def parse(raw: Raw) -> float:
        seconds = parse_duration(_text(raw))
        if not least_s <= seconds <= most_s:
            raise ValueError
        return seconds

    expects = f"a duration from {format_duration(least_s)} to {format_duration(most_s)}"
    return Kind(
        "duration", expects, parse, "for example 90s, 5m, 24h; a bare number means seconds",
        lambda value: format_duration(float(str(value))),
    )  # fmt: skip


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmg]?)(i?b)?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(least: int, most: int) -> Kind:
    """Return the kind of sizes in bytes; units are powers of 1024 however spelled, as Redis' `mb` is."""

    def parse(raw: Raw) -> int:
        match = _SIZE.fullmatch(_text(raw).strip())
        if match is None:
            raise ValueError
        count = int(float(match.group(1)) * _BYTES[match.group(2).lower()])
        if not least <= count <= most:
            raise ValueError
        return count

    span = f"{bytes_short(least)} to {bytes_short(most)}"
    return Kind(
        f"size, {span}", f"a size from {span}", parse, "for example 32MB or 512KB; 1 KB is 1024",
        lambda value: bytes_short(int(str(value))),
    )  # fmt: skip


def bytes_short(count: int) -> str:
    """Return a size in the largest unit that divides it: 32MB."""
    for unit in ("g", "m", "k"):
        if count >= _BYTES[unit] and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit.upper()}B"
    return f"{count}B"


def choice(*allowed: str, fold: Callable[[str], str] = str) -> Kind:
    """Return the kind with these words as values; `fold` is applied before comparing."""

    def parse(raw: Raw) -> str:
        text = fold(_text(raw))
        if text not in allowed:
            raise ValueError
        return text

    words = ", ".join(f"`{word}`" for word in allowed)
    return Kind(words, f"one of {', '.join(allowed)}", parse, "write one of these words")


def names(what: str) -> Kind:
    """Return the kind of column lists: one column, or a list without duplicates, as a tuple."""

    def parse(raw: Raw) -> tuple[str, ...]:
        found = tuple(_line(one) for one in ((raw,) if isinstance(raw, str) else raw if isinstance(raw, tuple) else ()))
        if not 1 <= len(found) <= COLUMNS_MAX:
            raise ValueError
        if len(set(found)) != len(found):
            raise Wrong("names a column twice", "name each column once")
        return found

    hint = "for example id, or [tenant, id]"
    return Kind("column or list", f"{what}, or a list of them", parse, hint, _listed, many=True)


COLUMNS_MAX = 1_000


def _listed(value: object) -> str:
    found = value if isinstance(value, tuple) else (value,)
    return str(found[0]) if len(found) == 1 else f"[{', '.join(map(str, found))}]"


def addresses(usual_port: int, one: str, two: str) -> Kind:
    """Return the kind of lists of servers. one, two: names for the examples."""

    def parse(raw: Raw) -> tuple[tuple[str, int], ...]:
        listed = (raw,) if isinstance(raw, str) else raw if isinstance(raw, tuple) else ()
        found = []
        for address in listed:
            match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([^:]*))?", address.strip())
            if match is None:
                raise Wrong("not a list of host:port", f"for example [{one}:{usual_port}, {two}:{usual_port}]")
            v6, name, number = match.groups()
            found.append((host(v6 or name), port(number) if number is not None else usual_port))
        if not found:
            raise ValueError
        return tuple(found)

    hint = f"for example [{one}:{usual_port}]"
    return Kind("list of host:port", "a list of host:port", parse, hint, _written_addresses, True)


def _written_addresses(value: object) -> str:
    assert isinstance(value, tuple)
    return _listed(tuple(f"[{name}]:{number}" if ":" in name else f"{name}:{number}" for name, number in value))


def _buckets(raw: Raw) -> int:
    text = _text(raw).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 16 <= int(text) <= 131_072 or int(text).bit_count() != 1:
        raise ValueError
    return int(text)


def _format(raw: Raw) -> str:
    import logging

    text = _text(raw)
    example = "for example '%(asctime)s - %(levelname)s - %(message)s'"
    try:
        logging.PercentStyle(text).validate()
    except ValueError:
        raise Wrong("is not a %-style log format", example) from None
    record = logging.LogRecord("reconcile", logging.INFO, "", 1, "", (), None)
    try:
        # Format a sample record: what fails here would fail in every line of the log.
        logging.Formatter(text).format(record)
    except (ValueError, TypeError) as error:
        missing = error.__context__  # logging makes a ValueError of the KeyError
        unknown = f"unknown field {missing.args[0]!r}" if isinstance(missing, KeyError) else "does not fit a log record"
        raise Wrong(f"not a usable log format: {unknown}", example) from None
    return text


def _url(raw: Raw) -> str:
    from urllib.parse import urlsplit

    text = _line(raw)
    example = "for example https://example.com/path"
    try:
        parts = urlsplit(text)
        name = parts.hostname or ""
        number = parts.port
    except ValueError:
        raise Wrong("not a URL", example) from None
    if parts.scheme not in ("http", "https") or not name or number == 0 or any(c.isspace() for c in text):
        raise Wrong("not an http:// or https:// URL", example)
    host(name)
    return text


def name_of(raw: Raw) -> str:
    """Return a name that may be part of a Redis key, a label or a file name. Raises ValueError."""
    text = _text(raw)
    if len(text) > NAME_MAX or not all(c.isascii() and (c.isalnum() or c in "_-") for c in text):
        raise ValueError
    return text


NAME_MAX = 64
_QUOTE = "quote it if YAML takes it for something else"
TEXT = Kind("text", "text", _text, _QUOTE)
LINE = Kind("text", "text on one line", _line, _QUOTE)
PATH = Kind("path", "text on one line", _line, _QUOTE)
SECRET = Kind("secret", "text", _secret, _QUOTE)
SECRET_LINE = Kind("secret", "text on one line", _line, _QUOTE)
URL = Kind("secret", "a URL", _url, "for example https://example.com/path")
HOST = Kind("host", "a host name", _host, _QUOTE)
HOST_OR_FOLDER = Kind("host", "a host name", _host_or_folder, _QUOTE)
SENTINELS = addresses(26379, "sentinel-0", "sentinel-1")
NODES = addresses(6379, "redis-1", "redis-2")
PORT = whole(1, 65_535, "1–65535")
BOOLEAN = Kind("true/false", "true or false", boolean, "write true or false", lambda value: str(value).lower())
FRACTION = Kind("0–1", "a number from 0 to 1", _fraction, "0.3 stands for 30 %")
BUCKETS = Kind(
    "power of two, 16–131072", "a power of two from 16 to 131072", _buckets,
    "leave it out: it is then chosen by the number of rows",
)  # fmt: skip
FORMAT = Kind("%-style format", "a %-style log format", _format, "for example '%(asctime)s - %(message)s'")
NAME = Kind("name", "a name", name_of, f"use letters, digits, '_' and '-'; at most {NAME_MAX}")
LEVEL = choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "WARN", "FATAL", "NOTSET", fold=str.upper)

"""Kinds of values: how the text of a scalar becomes a typed value, and what to say when it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Raw = str | bool


class Wrong(ValueError):  # noqa: N818 - the caller knows the place and turns it into a ConfigError
    """A value that says itself what is the matter with it; never quotes a secret."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Kind:
    """`parse` raises ValueError (the message is made from `expects`) or Wrong (which brings its own)."""

    expects: str
    parse: Callable[[Raw], object]
    hint: str


def _text(raw: Raw) -> str:
    if isinstance(raw, bool) or not raw:
        raise ValueError
    return raw


def _line(raw: Raw) -> str:
    text = _text(raw)
    if any(c in text for c in "\r\n\0"):
        raise ValueError
    return text


def _host(raw: Raw) -> str:
    text = _text(raw)
    if "://" in text or "@" in text or any(c.isspace() or c == "\0" for c in text):
        raise Wrong("not a host name", "give a whole URL as url")
    return text


def optional(kind: Kind) -> Kind:
    """The same, where an empty text (`password: ''`, `${X:-}`) means: not set."""
    return Kind(kind.expects, lambda raw: None if raw == "" else kind.parse(raw), kind.hint)


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _boolean(raw: Raw) -> bool:
    if isinstance(raw, bool):
        return raw
    if raw.lower() not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[raw.lower()]


def whole(least: int, most: int) -> Kind:
    """A whole number in a range, both ends included."""

    def parse(raw: Raw) -> int:
        text = _text(raw).strip()
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Kind(f"a whole number from {least} to {most}", parse, f"for example {max(least, min(most, 1000))}")


def _fraction(raw: Raw) -> float:
    text = _text(raw).strip()
    if not re.fullmatch(r"[0-9]{0,18}\.?[0-9]{0,18}", text) or text in ("", ".") or float(text) > 1:
        raise ValueError
    return float(text)


_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, None: 1}


def _seconds(raw: Raw) -> float:
    match = _DURATION.fullmatch(_text(raw).strip())
    if match is None:
        raise ValueError
    number, unit = match.groups()
    return float(number) * _SECONDS[unit]


def duration(least_s: float, most_s: float, *, off: bool = False) -> Kind:
    """Seconds; with `off`, the word 'off' (and YAML's false) is None: never."""

    def parse(raw: Raw) -> float | None:
        if off and (raw is False or (isinstance(raw, str) and raw.lower() in ("off", "none", "never"))):
            return None
        seconds = _seconds(raw)
        if not least_s <= seconds <= most_s:
            raise ValueError
        return seconds

    expects = f"a duration from {_short(least_s)} to {_short(most_s)}" + (" or off" if off else "")
    return Kind(expects, parse, "for example 90s, 5m, 24h; a bare number means seconds")


def _short(seconds: float) -> str:
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds * 1000:g}ms"


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmg]?)(i?b)?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(least: int, most: int) -> Kind:
    """Bytes; units are powers of 1024 however they are spelled, as in Redis' own `mb`."""

    def parse(raw: Raw) -> int:
        match = _SIZE.fullmatch(_text(raw).strip())
        if match is None:
            raise ValueError
        count = int(float(match.group(1)) * _BYTES[match.group(2).lower()])
        if not least <= count <= most:
            raise ValueError
        return count

    return Kind(
        f"a size from {bytes_short(least)} to {bytes_short(most)}", parse, "for example 32MB or 512KB; 1 KB is 1024"
    )


def bytes_short(count: int) -> str:
    """A size in the largest unit that divides it: 32MB."""
    for unit in ("g", "m", "k"):
        if count >= _BYTES[unit] and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit.upper()}B"
    return f"{count}B"


def choice(*allowed: str, fold: Callable[[str], str] = str) -> Kind:
    """The kind whose values are these words; `fold` is applied before looking."""
    def parse(raw: Raw) -> str:
        text = fold(_text(raw))
        if text not in allowed:
            raise ValueError
        return text

    return Kind(f"one of {', '.join(allowed)}", parse, "write one of these words")


def _buckets(raw: Raw) -> int:
    text = _text(raw).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 16 <= int(text) <= 131_072 or int(text).bit_count() != 1:
        raise ValueError
    return int(text)


def _format(raw: Raw) -> str:
    import logging

    text = _text(raw)
    try:
        logging.PercentStyle(text).validate()
    except ValueError:
        raise Wrong("is not a %-style log format", "for example '%(asctime)s - %(levelname)s - %(message)s'") from None
    return text


TEXT = Kind("text", _text, "quote it if YAML takes it for something else")
LINE = Kind("text on one line", _line, "quote it if YAML takes it for something else")
HOST = Kind("a host name", _host, "quote it if YAML takes it for something else")
BOOLEAN = Kind("true or false", _boolean, "write true or false")
FRACTION = Kind("a number from 0 to 1", _fraction, "0.3 stands for 30 %")
BUCKETS = Kind("a power of two from 16 to 131072", _buckets, "leave it out: it is then chosen by the number of rows")
FORMAT = Kind("a %-style log format", _format, "for example '%(asctime)s - %(levelname)s - %(message)s'")
LEVEL = choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "WARN", "FATAL", "NOTSET", fold=str.upper)

"""Messages of the PostgreSQL protocol, version 3.0."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconcile_standin.plan import Column
    from reconcile_standin.problem import SqlError
    from reconcile_standin.session import Notice

PROTOCOL = 196608
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
MAX_MESSAGE = 256 * 1024 * 1024


def message(kind: bytes, payload: bytes = b"") -> bytes:
    """Any message."""
    return kind + struct.pack("!i", len(payload) + 4) + payload


AUTHENTICATION_OK = message(b"R", struct.pack("!i", 0))
AUTHENTICATION_CLEARTEXT = message(b"R", struct.pack("!i", 3))
PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
CLOSE_COMPLETE = message(b"3")
NO_DATA = message(b"n")
EMPTY_QUERY = message(b"I")
PORTAL_SUSPENDED = message(b"s")
COPY_DONE = message(b"c")


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus."""
    return message(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def backend_key(pid: int, secret: int) -> bytes:
    """BackendKeyData."""
    return message(b"K", struct.pack("!ii", pid, secret))


def ready(status: bytes) -> bytes:
    """ReadyForQuery; status is I, T or E."""
    return message(b"Z", status)


def command_complete(tag: str) -> bytes:
    """CommandComplete."""
    return message(b"C", tag.encode() + b"\0")


def _fields(pairs: list[tuple[bytes, str | None]]) -> bytes:
    return b"".join(code + value.encode() + b"\0" for code, value in pairs if value is not None) + b"\0"


def error(problem: SqlError) -> bytes:
    """ErrorResponse."""
    position = None if problem.position is None else str(problem.position)
    return message(
        b"E",
        _fields(
            [
                (b"S", problem.severity),
                (b"V", problem.severity),
                (b"C", problem.code),
                (b"M", problem.message),
                (b"D", problem.detail),
                (b"H", problem.hint),
                (b"P", position),
            ]
        ),
    )


def notice(found: Notice) -> bytes:
    """NoticeResponse."""
    fields = [(b"S", "NOTICE"), (b"V", "NOTICE"), (b"C", found.code), (b"M", found.message), (b"H", found.hint)]
    return message(b"N", _fields(fields))


def row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    """RowDescription."""
    parts = [struct.pack("!H", len(columns))]
    for i, column in enumerate(columns):
        form = formats[i] if len(formats) == len(columns) else (formats[0] if formats else 0)
        parts.append(column.name.encode() + b"\0")
        parts.append(struct.pack("!IHIhih", 0, 0, column.type.oid, column.type.size, -1, form))
    return message(b"T", b"".join(parts))


def parameter_description(oids: Sequence[int]) -> bytes:
    """ParameterDescription."""
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def copy_out(columns: int, *, binary: bool) -> bytes:
    """CopyOutResponse."""
    form = int(binary)
    return message(b"H", struct.pack(f"!bH{columns}h", form, columns, *([form] * columns)))


class Reader:
    """Takes a message's payload apart."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def string(self) -> str:
        """A zero-terminated string."""
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def take(self, size: int) -> bytes:
        """Some bytes."""
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def int16(self) -> int:
        """A 16 bit integer."""
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        """A 32 bit integer."""
        return int.from_bytes(self.take(4), "big", signed=True)

    def int16s(self) -> list[int]:
        """A counted list of 16 bit integers."""
        return [self.int16() for _ in range(self.int16())]

    def value(self) -> bytes | None:
        """A counted value, NULL for a negative size."""
        size = self.int32()
        return None if size < 0 else self.take(size)

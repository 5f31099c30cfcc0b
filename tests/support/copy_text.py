"""COPY text as Materialize sends it for a subscription (recorded in copy_text; pgcopy/src/copy.rs)."""

from __future__ import annotations

from hypothesis import strategies as st

Row = tuple[bytes | None, bytes | None]
TEXTS = st.one_of(
    st.sampled_from(
        ["", "\\N", "\\", "\t", "\n", "\r", "a\tb", "\\n", "\\t", "\\\\N", " ", "☃ é 日本 🎉", "t", "f", "\\x00"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
).map(str.encode)


def escaped(value: bytes | None) -> bytes:
    r"""A field as COPY text writes it: only \\ \n \r \t are escaped (recorded in copy_text; pgcopy/src/copy.rs)."""
    if value is None:
        return b"\\N"
    return value.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r").replace(b"\t", b"\\t")


def hexed(value: bytes | None) -> bytes | None:
    return None if value is None else b"\\x" + value.hex().encode()


def line(time: int, diff: int, row: Row, *, as_bytea: bool = False) -> bytes:
    fields = [escaped(hexed(f) if as_bytea else f) for f in row]
    return b"\t".join([b"%d" % time, b"f", b"%d" % diff, *fields]) + b"\n"


def progress(time: int) -> bytes:
    return b"%d\tt\t\\N\t\\N\t\\N\n" % time

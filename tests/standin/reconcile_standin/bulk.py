"""Rows of nothing but numbers to bytes, all at once: as a matrix of bytes of which some are left out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from reconcile_standin.batches import Batch, Numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Cell = tuple[Bytes, NDArray[np.bool_] | None]
    """Bytes of every row, as many columns as the widest needs, and which of them count (None: all)."""

FIXED = {"int2": ">u2", "int4": ">u4", "int8": ">u8", "oid": ">u4", "uint2": ">u2", "uint4": ">u4", "uint8": ">u8"}
_EIGHT = np.uint64(10**8)
_FOUR = np.uint64(10**4)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_TEXTS = np.frombuffer(b"".join(b"%04d" % n for n in range(10000)), dtype=np.uint8).reshape(10000, 4)
_WIDE = {">u2": 2, ">u4": 4, ">u8": 8}


def values_of(batch: Batch) -> list[Numbers] | None:
    """The columns, if all are numbers and none is NULL."""
    found = [c for c in batch.columns if isinstance(c, Numbers)]
    return found if len(found) == len(batch.columns) and all(c.valid.all() for c in found) else None


def _digits(numbers: Numbers) -> NDArray[np.uint64]:
    """Digits to the base 10,000, the highest first."""
    low = numbers.values.astype(np.uint64)
    words = [low >> _HALF, low & _LOW]
    if numbers.high is not None:
        high = numbers.high.astype(np.uint64) + words[0]
        words = [high >> _HALF, high & _LOW, words[1]]
    digits: list[NDArray[np.uint64]] = []
    for _ in range(len(words) + 1):
        rest = np.zeros(len(low), dtype=np.uint64)
        for i, word in enumerate(words):
            whole = (rest << _HALF) | word
            words[i] = whole // _EIGHT
            rest = whole - words[i] * _EIGHT
        upper = rest // _FOUR
        digits += [rest - upper * _FOUR, upper]
    while len(digits) > 1 and not digits[-1].any():
        digits.pop()
    return np.stack(digits[::-1], axis=1)


def _from_first(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Everything from the first wanted place of each row on; the last place in any case."""
    wanted[:, -1] = True
    first = wanted.argmax(axis=1)
    flags: NDArray[np.bool_] = np.arange(wanted.shape[1]) >= first[:, None]
    return flags


def _text(numbers: Numbers) -> Cell:
    digits = _digits(numbers)
    matrix = _TEXTS[digits].reshape(len(digits), -1)
    return matrix, _from_first(matrix != 48)


def _numeric(numbers: Numbers) -> Cell:
    digits = _digits(numbers)
    flags = _from_first(digits != 0)
    size = flags.sum(axis=1)
    head = np.zeros((len(digits), 4), dtype=">u2")
    head[:, 0] = size
    head[:, 1] = size - 1
    body = np.concatenate([head, digits.astype(">u2")], axis=1).astype(">u2")
    mask = np.concatenate([np.ones((len(digits), 8), dtype=np.bool_), np.repeat(flags, 2, axis=1)], axis=1)
    return body.view(np.uint8), mask


def _fixed(values: NDArray[Any], form: str) -> Bytes:
    return np.ascontiguousarray(values.astype(form)).view(np.uint8).reshape(len(values), _WIDE[form])


def packed(numbers: Numbers, type_name: str) -> list[bytes]:
    """Numbers in their type's fixed binary form."""
    form = FIXED[type_name]
    data = numbers.values.astype(form).tobytes()
    found: list[bytes] = np.frombuffer(data, dtype=f"V{_WIDE[form]}").tolist()
    return found


def _cell(numbers: Numbers, type_name: str, *, binary: bool) -> Cell:
    if not binary:
        return _text(numbers)
    if type_name in FIXED:
        return _fixed(numbers.values, FIXED[type_name]), None
    return _numeric(numbers)


def _size(cell: Cell) -> NDArray[Any] | int:
    matrix, mask = cell
    if mask is None:
        return int(matrix.shape[1])
    sizes: NDArray[Any] = mask.sum(axis=1)
    return sizes


def _joined(count: int, parts: Sequence[bytes | Cell]) -> bytes:
    """The rows' parts one after another; bytes are the same in every row."""
    matrices, masks = [], []
    for part in parts:
        if isinstance(part, bytes):
            matrix: Bytes = np.broadcast_to(np.frombuffer(part, dtype=np.uint8), (count, len(part)))
            mask = None
        else:
            matrix, mask = part
        matrices.append(matrix)
        masks.append(np.ones(matrix.shape, dtype=np.bool_) if mask is None else mask)
    chosen: Bytes = np.concatenate(matrices, axis=1)[np.concatenate(masks, axis=1)]
    return chosen.tobytes()


def _number(count: int, value: NDArray[Any] | int) -> Cell:
    return _fixed(np.broadcast_to(np.asarray(value), (count,)), ">u4"), None


def data_rows(columns: list[Numbers], types: Sequence[tuple[str, bool]]) -> bytes:
    """DataRow messages. types: of each column the name, and whether it goes in binary form."""
    count = len(columns[0])
    cells = [_cell(c, name, binary=binary) for c, (name, binary) in zip(columns, types, strict=True)]
    sizes = [_size(cell) for cell in cells]
    parts: list[bytes | Cell] = [b"D", _number(count, sum(sizes) + 6 + 4 * len(cells)), struct.pack("!H", len(cells))]
    for cell, size in zip(cells, sizes, strict=True):
        parts += [_number(count, size), cell]
    return _joined(count, parts)


def copy_text(columns: list[Numbers]) -> bytes:
    """CopyData messages in text format."""
    count = len(columns[0])
    cells = [_text(c) for c in columns]
    parts: list[bytes | Cell] = [b"d", _number(count, sum(_size(cell) for cell in cells) + 4 + len(cells))]
    for cell in cells:
        parts += [cell, b"\t"]
    parts[-1] = b"\n"
    return _joined(count, parts)


def json_rows(columns: list[Numbers]) -> bytes:
    """'[1,"2"],' for every row."""
    parts: list[bytes | Cell] = [b"["]
    for column in columns:
        quote = b'"' * column.decimal
        parts += [quote, _text(column), quote + b","]
    parts[-1] = quote + b"],"
    return _joined(len(columns[0]), parts)

"""The hash functions of Materialize: one value at a time, and SeaHash over many rows at once."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MASK = 2**64 - 1
_PRIME = 0x6EED0E9DA4D94A4F
_SEEDS = (0x16F11FE89B0D677C, 0xB480A793D8E6C86C, 0x6FE2E5AAF078EBC9, 0x14F994A4C5259381)


def _diffuse(x: int) -> int:
    x = x * _PRIME & _MASK
    x ^= (x >> 32) >> (x >> 60)
    return x * _PRIME & _MASK


def seahash(data: bytes) -> int:
    """SeaHash with the standard seeds."""
    a, b, c, d = _SEEDS
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little")
        a, b, c, d = b, c, d, _diffuse(a ^ word)
    return _diffuse(a ^ b ^ c ^ d ^ len(data))


def _diffuse_all(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x * np.uint64(_PRIME)
    x ^= (x >> np.uint64(32)) >> (x >> np.uint64(60))
    x *= np.uint64(_PRIME)
    return x


_CHUNK = 16384


def seahash_many(rows: Sequence[bytes]) -> NDArray[np.uint64]:
    """SeaHash of every row."""
    out = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), _CHUNK):
        out[start : start + _CHUNK] = _seahash_chunk(rows[start : start + _CHUNK])
    return out


def _seahash_chunk(rows: Sequence[bytes]) -> NDArray[np.uint64]:
    # Rows sorted by length, longest first: at every step the rows still running are a prefix.
    count = len(rows)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=count)
    order = np.argsort(-lengths, kind="stable")
    sizes = lengths[order]
    words = (sizes + 7) // 8
    width = int(words[0]) if count else 0
    out = np.empty(count, dtype=np.uint64)
    if width * count > _CHUNK * 64:
        # A few long rows among many: not worth a matrix.
        out[:] = np.fromiter((seahash(row) for row in rows), dtype=np.uint64, count=count)
        return out
    padded = b"".join([row.ljust(width * 8, b"\0") for row in rows])
    matrix = np.frombuffer(padded, dtype="<u8").reshape(count, width)[order].T if width else None
    running = np.searchsorted(-words, -np.arange(width), side="left")
    lanes = [np.full(count, np.uint64(seed)) for seed in _SEEDS]
    for i in range(width):
        n = int(running[i])
        assert matrix is not None
        a, b, c, d = (lane[:n].copy() for lane in lanes)
        mixed = _diffuse_all(a ^ matrix[i, :n])
        lanes[0][:n], lanes[1][:n], lanes[2][:n], lanes[3][:n] = b, c, d, mixed
    total = lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3] ^ sizes.astype(np.uint64)
    out[order] = _diffuse_all(total)
    return out


def crc32_many(rows: Sequence[bytes]) -> NDArray[np.uint64]:
    """CRC-32 of every row."""
    return np.fromiter(map(zlib.crc32, rows), dtype=np.uint64, count=len(rows))


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 with the sign bit cleared."""
    mask = 2**32 - 1
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0x5BD1E995 & mask
        k = (k ^ (k >> 24)) * 0x5BD1E995 & mask
        h = (h * 0x5BD1E995 & mask) ^ k
    if len(data) > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * 0x5BD1E995 & mask
    h = (h ^ (h >> 13)) * 0x5BD1E995 & mask
    return (h ^ (h >> 15)) & 0x7FFFFFFF

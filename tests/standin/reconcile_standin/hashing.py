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


# So many bytes are hashed at once that they stay in the processor's cache.
_CHUNK_BYTES = 1 << 21
# Fewer rows than this are hashed one by one.
_FEW = 16


def seahash_many(data: bytes, sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """SeaHash of rows that stand one after another in data."""
    out = np.empty(len(sizes), dtype=np.uint64)
    starts = np.cumsum(sizes) - sizes
    padded = np.frombuffer(data + b"\0" * 8, dtype=np.uint8)
    # A word may start at any byte.
    words = np.ndarray(shape=(len(padded) - 7,), dtype="<u8", buffer=padded.data, strides=(1,))
    first = 0
    while first < len(sizes):
        end = int(np.searchsorted(starts, starts[first] + _CHUNK_BYTES))
        # Rows sorted by length, longest first. The very longest would keep the others waiting.
        order = np.argsort(-sizes[first:end], kind="stable") + first
        few = order[:_FEW]
        if end - first > _FEW:
            few = few[sizes[few] > sizes[order[_FEW]]]
        for i in few.tolist():
            out[i] = seahash(data[int(starts[i]) : int(starts[i] + sizes[i])])
        rest = order[len(few) :]
        if len(rest):
            out[rest] = _seahash_sorted(words, starts[rest], sizes[rest])
        first = end
    return out


def _seahash_sorted(
    words: NDArray[np.uint64], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint64]:
    # At every step the rows still running are a prefix.
    lanes = [np.full(len(sizes), np.uint64(seed)) for seed in _SEEDS]
    running = np.searchsorted(-sizes, -np.arange(0, int(sizes[0]), 8), side="left").tolist()
    for i, n in enumerate(running):
        word = words[starts[:n] + 8 * i]
        unused = 64 - 8 * (sizes[:n] - 8 * i)
        if unused[-1] > 0:
            shift = np.maximum(unused, 0).astype(np.uint64)
            word = word << shift >> shift
        mixed = _diffuse_all(lanes[0][:n] ^ word)
        for lane in range(3):
            lanes[lane][:n] = lanes[lane + 1][:n]
        lanes[3][:n] = mixed
    return _diffuse_all(lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3] ^ sizes.astype(np.uint64))


def crc32_many(data: bytes, sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """CRC-32 of rows that stand one after another in data."""
    ends = np.cumsum(sizes)
    view, crc32 = memoryview(data), zlib.crc32
    sums = [crc32(view[start:end]) for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
    return np.array(sums, dtype=np.uint64)


def hash_many(function: str, rows: Sequence[bytes | None]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A hash of every row, and whether it is not NULL."""
    data = [row or b"" for row in rows]
    valid = np.fromiter((row is not None for row in rows), dtype=np.bool_, count=len(rows))
    if function == "crc32":
        return np.fromiter(map(zlib.crc32, data), dtype=np.uint64, count=len(rows)), valid
    sizes = np.fromiter(map(len, data), dtype=np.int64, count=len(rows))
    return seahash_many(b"".join(data), sizes), valid


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

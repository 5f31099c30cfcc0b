"""Reading back what reconcile keeps in Redis, independently of its own code where that is possible."""

from __future__ import annotations

import binascii
import struct
from typing import Any

import redis
import xxhash


def owned(client: redis.Redis, prefix: bytes = b"p:") -> dict[bytes, bytes]:
    """Every string key under the prefix with its value."""
    keys = [key for key in client.scan_iter(prefix + b"*", count=1000) if not key.startswith(b"reconcile:{")]
    values = [client.get(key) for key in keys]
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def prefixed(content: dict[bytes, bytes], prefix: bytes = b"p:") -> dict[bytes, bytes]:
    """The view's content as it should stand in Redis."""
    return {prefix + key: value for key, value in content.items()}


def state(client: redis.Redis, view: str = "default") -> dict[str, str]:
    """Fields of the state hash."""
    stored: dict[bytes, bytes] = client.hgetall(f"reconcile:{{{view}}}:state")  # type: ignore[assignment]
    return {name.decode(): value.decode() for name, value in stored.items()}


def check_manifest(client: redis.Redis, prefix: bytes = b"p:", view: str = "default") -> None:
    """The stored manifest must be what the owned keys really add up to."""
    fields = state(client, view)
    buckets, salt = int(fields["buckets"]), int(fields["salt"], 16)
    counts, sums = [0] * buckets, [0] * buckets
    for key, value in owned(client, prefix).items():
        bucket = binascii.crc32(key) % buckets
        counts[bucket] += 1
        sums[bucket] += xxhash.xxh3_64_intdigest(key, seed=xxhash.xxh3_64_intdigest(value, seed=salt))
    expected = b"".join(struct.pack(">QQ", c, s % 2**64) for c, s in zip(counts, sums, strict=True))
    stored: Any = client.get(f"reconcile:{{{view}}}:manifest")
    assert stored == expected, "the manifest is not what Redis holds"
    assert int(fields["keys"]) == sum(counts)

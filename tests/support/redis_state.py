"""Reading back what reconcile keeps in Redis, independently of its own code where that is possible."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from typing import Any

import redis
import xxhash


def owned(client: redis.Redis, prefix: bytes = b"p:") -> dict[bytes, bytes]:
    """Every string key under the prefix with its value."""
    keys: list[bytes] = [k for k in client.scan_iter(prefix + b"*", count=1000) if not k.startswith(b"reconcile:{")]
    found: list[bytes | None] = client.mget(keys) if keys else []  # type: ignore[assignment]
    return {key: value for key, value in zip(keys, found, strict=True) if value is not None}


def prefixed(content: dict[bytes, bytes], prefix: bytes = b"p:") -> dict[bytes, bytes]:
    """The view's content as it should stand in Redis."""
    return {prefix + key: value for key, value in content.items()}


def state(client: redis.Redis, view: str = "default") -> dict[str, str]:
    """Fields of the state hash."""
    stored: dict[bytes, bytes] = client.hgetall(f"reconcile:{{{view}}}:state")  # type: ignore[assignment]
    return {name.decode(): value.decode() for name, value in stored.items()}


def true_manifest(content: dict[bytes, bytes], fields: dict[str, str]) -> tuple[bytes, int]:
    """The manifest that this content adds up to under the state's buckets and salt; and the digest of all of it."""
    buckets, salt = int(fields["buckets"]), int(fields["salt"], 16)
    counts, sums = [0] * buckets, [0] * buckets
    for key, value in content.items():
        bucket = binascii.crc32(key) % buckets
        counts[bucket] += 1
        sums[bucket] += xxhash.xxh3_64_intdigest(key, seed=xxhash.xxh3_64_intdigest(value, seed=salt))
    records = b"".join(struct.pack(">QQ", c, s % 2**64) for c, s in zip(counts, sums, strict=True))
    return records, sum(counts) << 64 | sum(sums) % 2**64


def check_manifest_bytes(stored: bytes | None, content: dict[bytes, bytes], fields: dict[str, str]) -> None:
    """The stored manifest, and the state's sums, must be what the content adds up to."""
    manifest, total = true_manifest(content, fields)
    assert stored == manifest, "the manifest is not what Redis holds"
    assert int(fields["keys"]) == total >> 64
    assert fields["digest"] == f"{total:032x}"


def check_manifest(client: redis.Redis, prefix: bytes = b"p:", view: str = "default") -> None:
    """The stored manifest must be what the owned keys really add up to."""
    stored: Any = client.get(f"reconcile:{{{view}}}:manifest")
    check_manifest_bytes(stored, owned(client, prefix), state(client, view))


Entry = tuple[Any, int]
"""A string, the pairs of a hash in a list by field, or the name of another type; and when it expires (ms), or −1."""

_ENTRIES = """
local rows = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value = kind == 'string' and redis.call('GET', key) or kind == 'hash' and redis.call('HGETALL', key) or kind
  rows[#rows + 1] = {key, value, redis.call('PEXPIRETIME', key)}
end
return rows
"""


def entries(client: redis.Redis) -> dict[bytes, Entry]:
    """Everything that a server holds, at one moment."""
    rows: Any = client.eval(_ENTRIES, 0)
    return {key: (_by_field(value) if isinstance(value, list) else value, at_ms) for key, value, at_ms in rows}


def _by_field(pairs: list[bytes]) -> list[bytes]:
    """Redis 8 gives the fields of a hash in another order each time."""
    return [one for pair in sorted(zip(pairs[::2], pairs[1::2], strict=True)) for one in pair]


@dataclass
class Stored:
    """Everything a Redis database holds, to be put back quickly."""

    entries: dict[bytes, bytes]
    """Key → its dump."""

    @classmethod
    def of(cls, client: redis.Redis) -> Stored:
        keys: list[bytes] = sorted(client.scan_iter(count=1000))
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            return cls(dict(zip(keys, pipe.execute(), strict=True)))

    def restore(self, client: redis.Redis) -> None:
        """Make the database hold exactly this."""
        with client.pipeline(transaction=True) as pipe:
            pipe.flushdb()
            for key, data in self.entries.items():
                pipe.restore(key, 0, data, replace=True)
            pipe.execute()

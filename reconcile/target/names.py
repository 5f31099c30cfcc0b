"""Names of reconcile's own keys in Redis. Pure.

    reconcile:{<ns>.<view>}:state          all keys of a view have the same tag, so they share a slot of a cluster
    reconcile:{<ns>.<view>}:state:<i>/<n>  the state of one shard; token, lease, manifest … likewise
    reconcile:{<ns>.<view>}:shards         the number of shards the view is cut into now; absent: it is whole
    reconcile:{claims}                     the claims of every view in the database, whatever its namespace
    reconcile:{<number>}:fence:<tag>       in a cluster: a fence, in a slot of the primary that it guards

Without a namespace the tag is just the view's name. Braces, dots, % and control characters in either are escaped (%7B):
names also come from timestamp keys and from the environment.
"""

from __future__ import annotations

import re
from binascii import crc32
from functools import cached_property

from msgspec import Struct

from reconcile.core.ownership import STATE_PREFIX
from reconcile.core.shards import WHOLE, Shard

CLAIMS = STATE_PREFIX + b"claims}"
REMEMBERED_SETS = 256
ANY_STATE = b"reconcile:{*}:state*"
"""Matches the state of every view and shard."""

_ESCAPED = re.compile(r"[\x00-\x1f\x7f%.{}]")
_STATE_NAME = re.compile(rb"reconcile:\{([^{}]+)\}:state(?::[0-9]+/[0-9]+)?")


class Names(Struct, frozen=True, dict=True):
    """Key names of one view, or of one shard of it."""

    view: str
    namespace: str = ""
    shard: Shard = WHOLE

    @cached_property
    def tag(self) -> str:
        """The view with its namespace, escaped: the hash tag of its keys, and its field in the claims."""
        return tag_of(self.view, self.namespace)

    @cached_property
    def shards(self) -> bytes:
        """Holds the view's division."""
        return self._of_view("shards")

    @cached_property
    def state(self) -> bytes:
        return self._sharded("state")

    @cached_property
    def manifest(self) -> bytes:
        return self._sharded("manifest")

    @cached_property
    def fingerprints(self) -> bytes:
        return self._sharded("fingerprints")

    @cached_property
    def surplus(self) -> bytes:
        return self._sharded("surplus")

    @cached_property
    def lease(self) -> bytes:
        return self._sharded("lease")

    @cached_property
    def token(self) -> bytes:
        return self._sharded("token")

    @cached_property
    def audit(self) -> bytes:
        return self._sharded("audit")

    @cached_property
    def fences(self) -> bytes:
        """In a cluster: a list of the fences, with the last mark of each."""
        return self._sharded("fences")

    def fence(self, tag: bytes) -> bytes:
        """Return the fence in the slot of this hash tag, in a cluster."""
        return STATE_PREFIX + tag + b"}:fence:" + f"{self.tag}{self._ending}".encode()

    def remembered(self, key: bytes) -> bytes:
        """Return the set that remembers this key as the view's."""
        return self._of_view(f"keys:{crc32(key) % REMEMBERED_SETS}")

    @property
    def remembered_sets(self) -> list[bytes]:
        """The sets that remember keys of this shard."""
        return [self._of_view(f"keys:{number}") for number in self.shard.residues(REMEMBERED_SETS)]

    @property
    def forgotten(self) -> list[bytes]:
        """What a run that starts over deletes: all that earlier runs stored, except the lease and the token."""
        return [self.state, self.manifest, self.fingerprints, self.surplus, self.audit]

    def _of_view(self, what: str) -> bytes:
        return STATE_PREFIX + f"{self.tag}}}:{what}".encode()

    def _sharded(self, what: str) -> bytes:
        return self._of_view(what + self._ending)

    @property
    def _ending(self) -> str:
        return "" if self.shard == WHOLE else f":{self.shard}"


def tag_of(view: str, namespace: str = "") -> str:
    """Return `ns.view`, or just `view` without a namespace; different for every pair."""
    return ".".join(_ESCAPED.sub(_escape, name) for name in (namespace, view) if name)


def tag_of_state(key: bytes) -> str | None:
    """Return the tag in the name of a state; None for any other key."""
    match = _STATE_NAME.fullmatch(key)
    return match[1].decode("utf-8", "replace") if match else None


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"

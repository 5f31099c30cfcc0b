"""Translate Redis' errors. Nothing that a server quotes from our commands gets into a message: it may be a row's value
or the password."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from reconcile.errors import AccessError, DataError, ReconcileError, Unavailable, UsageError

ELSEWHERE = {MovedError: "MOVED", AskError: "ASK", TryAgainError: "TRYAGAIN", ClusterDownError: "CLUSTERDOWN"}
"""Errors about slots that a node does not serve; redis-py removes the name from the text."""

_CAUSES: dict[str, type[RedisError]] = {
    "NOPERM": NoPermissionError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
}
"""The classes of errors for which EXEC may be refused as a whole; redis-py makes only one of the reply itself."""

_E = TypeVar("_E", bound=Exception)

_NO_ERRORS = frozenset([bytes, int, list, type(None)])
"""What replies are otherwise, in RESP 2."""

MAX_TEXT = 200
_QUOTED = r"(?<!\w)'[^']*'?|\"[^\"]*\"?|`[^`]*`?"
_COMMAND = r"(?i)['`]([a-z]{2,16}(?:\|[a-z]{2,16})?)['`]"
_ARGUMENTS = r"(?is),? ?with args beginning.*| script: .*"
"""What follows names the arguments of a command, or the place in our script."""
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"

COMMANDS = frozenset(
    re.findall(
        r"\w+",
        """auth client cluster config dbsize del eval exec exists get getrange hello hget hgetall hlen hmget hset
        hstrlen incr info mget mset msetnx multi persist pexpire pexpireat pexpiretime ping pttl sadd scan select set
        setrange smismember srem sscan strlen time type unlink unwatch watch""",
    )
)
"""The commands we send: these are repeated where a server quotes them."""
WORDS = frozenset(["maxmemory", *map(os.strerror, errno.errorcode)])
"""So are these: the limit that was exceeded, and what the operating system says of a connection."""


def all_well(replies: Sequence[Any]) -> bool:
    """Whether no reply is an error; False: look at each. Quick, since it is asked about thousands at once."""
    return _NO_ERRORS.issuperset(map(type, replies))


def checked(replies: Sequence[Any]) -> list[Any]:
    """Return the same replies; raises the first error among them, translated."""
    if not all_well(replies):
        for reply in replies:
            if isinstance(reply, RedisError):
                raise translate(reply)
    return list(replies)


def readable(replies: Sequence[Any]) -> list[Any]:
    """Return the same replies; raises the first error among them, translated, unless its key holds another type: that
    is as good as absent. Whatever was refused, or must be asked again later, says nothing about what is stored."""
    if not all_well(replies):
        checked([reply for reply in replies if not of_another_type(reply)])
    return list(replies)


def of_another_type(reply: Any) -> bool:
    """Whether a reply says that its key holds another type than the command is for."""
    return isinstance(reply, RedisError) and str(reply).startswith("WRONGTYPE")


def printable(text: str) -> str:
    """Return text from a server without control characters, which would act on the terminal, cut at MAX_TEXT."""
    return re.sub(_CONTROL, "?", text)[:MAX_TEXT]


def own_words(error: Exception) -> str:
    """Return the error's own words; of what it quotes, only names of commands and WORDS."""
    text = str(error)
    text = text.splitlines()[0] if text.strip() else type(error).__name__
    text = re.sub(_ARGUMENTS, "", text)
    return printable(re.sub(_QUOTED, _known, text))


def _known(match: re.Match[str]) -> str:
    name = re.fullmatch(_COMMAND, match[0])
    command = name is not None and name[1].lower().split("|")[0] in COMMANDS
    return match[0] if command or match[0].strip("'") in WORDS else "'…'"


def translate(error: Exception) -> ReconcileError:
    """Translate a Redis error, or a failure of the connection. Of a cluster, the node is named (see `of_node`)."""
    return named(_translated(_cause(error)), error)


def named(translated: ReconcileError, error: Exception) -> ReconcileError:
    """Return a translated error after adding the node at which the original arose."""
    node = getattr(error, "node", "")
    if node and node not in translated.message:
        translated.message += f" (node {node})"
    return translated


def of_node(error: _E, node: str) -> _E:
    """Return an error after noting at which node of a cluster it arose; no node: none."""
    if node:
        error.node = node  # type: ignore[attr-defined]
    return error


def _translated(error: Exception) -> ReconcileError:
    text = own_words(error)
    upper = text.upper()
    if (access := _access(error, text, upper)) is not None:
        return access
    if "DB INDEX" in upper:
        return UsageError(f"Redis has no such database: {text}", hint="check redis.db")
    if isinstance(error, ReadOnlyError):
        return Unavailable(f"this Redis is a read-only replica: {text}", hint="connect to the primary")
    if isinstance(error, OutOfMemoryError):
        return Unavailable(
            f"Redis is out of memory: {text}", hint="raise maxmemory or make room; this batch was not written"
        )
    if type(error) in ELSEWHERE or isinstance(error, ClusterCrossSlotError):
        return UsageError(
            f"this is a node of a Redis Cluster: {ELSEWHERE.get(type(error), 'CROSSSLOT')} {text}",
            hint="set redis.cluster: true (RECONCILE_REDIS__CLUSTER=true), then run: reconcile doctor",
        )
    if upper.startswith(("MISCONF", "NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN")) or isinstance(
        error, BusyLoadingError
    ):
        return Unavailable(f"Redis cannot write now: {text}", hint="see Redis' own log; the next run tries again")
    if "INVALID BULK LENGTH" in upper:
        return DataError(
            f"a key or value of the view is too large for this Redis: {text}",
            hint="shorten it in the query, or raise proto-max-bulk-len",
        )
    if "MAX REQUEST SIZE" in upper:
        return UsageError(f"this Redis takes no request of this size: {text}", hint="lower limits.batch_max_bytes")
    if isinstance(error, ResponseError):
        return ReconcileError(f"Redis refuses a command: {text}")
    return Unavailable(f"Redis is not available: {text}", hint="is it running, and reachable from here?")


def _cause(error: Exception) -> Exception:
    """Return the error that refused EXEC, if the server quotes it: it became a replica, or full, since MULTI."""
    _, discarded, cause = str(error).partition("Transaction discarded because of: ")
    code, _, text = cause.partition(" ")
    if not discarded or not code.isupper():  # "previous errors", which came as replies of their own
        return error
    return _CAUSES[code](text) if code in _CAUSES else ResponseError(cause)


def _access(error: Exception, text: str, upper: str) -> ReconcileError | None:
    """Return the error if the server refuses access, or lacks a command that we need; None for any other error."""
    if "UNKNOWN COMMAND" in upper or "UNKNOWN SUBCOMMAND" in upper:
        return UsageError(
            f"this Redis lacks a command that reconcile needs: {text}",
            hint="it was renamed or disabled (rename-command, a proxy, a managed service); "
            "docs/operations.md lists the commands",
        )
    if upper.startswith("DENIED"):
        return AccessError(
            "Redis refused access: it runs in protected mode and answers only its own host",
            hint="give it a password (requirepass, or a user) or bind it to an address; then set protected-mode no",
        )
    if isinstance(error, AuthenticationError) or upper.startswith(("WRONGPASS", "NOAUTH")):
        return AccessError(f"Redis refused access: {text}", hint="check redis.username and redis.password")
    if isinstance(error, NoPermissionError) or upper.startswith(("NOPERM", "ACL FAILURE")):
        return AccessError(
            f"Redis refused a command: {text}", hint="docs/operations.md lists the ACL rules reconcile needs"
        )
    return None

"""The parsed request of one invocation, from the command line, a function's event or a test.

`OPTIONS` is the one table of which option fits which mode. The command line makes its flags from it, events are checked
against it, and both pass their raw values to `parse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from msgspec import Struct

from reconcile.core import times
from reconcile.core.shards import Shard, parse_shard
from reconcile.errors import UsageError

Mode = Literal["run", "snapshot", "delta", "verify"]
IfLeased = Literal["skip", "wait", "fail"]
Subset = tuple[int, int] | Literal["next"]
"""(i, n): the buckets b with b mod n = i; 'next': the slice after the last audited one."""

MODES: frozenset[str] = frozenset(get_args(Mode))
_WRITERS = MODES - {"verify"}
_FOLLOWERS = frozenset({"run", "delta"})
_SNAPSHOT = frozenset({"snapshot"})
_VERIFY = frozenset({"verify"})


class Request(Struct, frozen=True):
    """One invocation, all values parsed. Options of other modes have their default."""

    mode: Mode
    views: tuple[str, ...] = ()
    """Names, or patterns such as 'price-*', of the views to work on; empty: all configured views."""
    follow_s: float | None = None
    """Follow the source until this many seconds after the start."""
    until_current: bool = False
    """Stop once caught up with the present: the default of delta without follow_s."""
    as_of: int | None = None
    """Milliseconds; None: the present."""
    deep: bool = False
    """Compare every row with Redis."""
    fast: bool = False
    """Fingerprints and manifest only, no rows."""
    subset: Subset | None = None
    """Audit one slice of the buckets; None: all."""
    dry_run: bool = False
    allow_deletes: bool = False
    """Carry out deletes that need consent."""
    adopt: bool = False
    """Without prefix and `dedicated`: take over existing keys of the view that it does not remember."""
    reset_state: bool = False
    """Discard the state of earlier runs (corrupt, or in a newer format)."""
    if_leased: IfLeased = "skip"
    shard: Shard | None = None
    """Only this shard of each view, which is cut into so many from now on; None: every shard there is."""
    show_values: bool = False
    """Include row values in the report."""
    max_report: int = 20
    """Number of keys named, at most."""


def _parse_subset(text: str, _now_ms: int) -> Subset:
    if text == "next":
        return "next"
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UsageError(f"{text!r} is not a slice", hint="write i/n with 0 <= i < n, such as 0/24, or next")
    return int(match[1]), int(match[2])


def _parse_shard(text: str, _now_ms: int) -> Shard:
    return parse_shard(text)


def _parse_follow(seconds: float, _now_ms: int) -> float:
    if not 0 <= seconds < float("inf"):
        raise UsageError("must be a number of seconds, 0 or more")
    return float(seconds)


class Option(Struct, frozen=True):
    """The modes to which one field of `Request` belongs, and who may set it."""

    kind: type
    """Type of the raw value: str, float, int, bool, or list (of strings)."""
    modes: frozenset[str]
    parse: Callable[[Any, int], Any] | None = None
    """(raw value, now in milliseconds) → the field's value; None: used as it is."""
    choices: tuple[str, ...] = ()
    consents: bool = False
    """Whether it allows what a run refuses by itself: an event needs its environment's permission."""
    events: bool = True
    """Whether function events may set it; their answers end up in logs."""


OPTIONS: Mapping[str, Option] = {
    "views": Option(list, MODES),
    "follow_s": Option(float, _FOLLOWERS, _parse_follow),
    "until_current": Option(bool, frozenset({"delta"})),
    "as_of": Option(str, _SNAPSHOT, times.parse_as_of),
    "deep": Option(bool, _SNAPSHOT),
    "adopt": Option(bool, _SNAPSHOT, consents=True),
    "reset_state": Option(bool, _SNAPSHOT, consents=True),
    "dry_run": Option(bool, _WRITERS),
    "allow_deletes": Option(bool, _WRITERS, consents=True),
    "if_leased": Option(str, _WRITERS, choices=get_args(IfLeased)),
    "shard": Option(str, _WRITERS, _parse_shard),
    "fast": Option(bool, _VERIFY),
    "subset": Option(str, _VERIFY, _parse_subset),
    "show_values": Option(bool, _VERIFY, events=False),
    "max_report": Option(int, _VERIFY, events=False),
}
"""Field of Request → the modes it belongs to."""
EXCLUSIVE = (("follow_s", "until_current"),)


def parse(mode: str, given: Mapping[str, Any], now_ms: int, called: Callable[[str], str]) -> Request:
    """Return the parsed request.

    given: field of OPTIONS → raw value; absent or None: not given. now_ms: base of relative times. called: field → the
    caller's name for it, for messages. Raises UsageError.
    """
    assert mode in MODES, mode
    asked = {field: value for field, value in given.items() if value is not None}
    for field, value in asked.items():
        option = OPTIONS[field]
        if mode not in option.modes:
            modes = ", ".join(sorted(option.modes))
            raise UsageError(f"{called(field)} does not belong to mode {mode!r}", hint=f"it belongs to: {modes}")
        if option.parse is not None:
            try:
                asked[field] = option.parse(value, now_ms)
            except UsageError as error:
                raise UsageError(f"{called(field)}: {error.message}", hint=error.hint) from None
    for one, other in EXCLUSIVE:
        if asked.get(one) and asked.get(other):
            raise UsageError(f"{called(one)} and {called(other)} exclude each other")
    return Request(**{**asked, "mode": mode, "views": tuple(asked.get("views", ()))})

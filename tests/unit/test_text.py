# ruff: noqa: E501 - a table of reports
"""Reports for people, and the values they are made from."""

from __future__ import annotations

import json

import pytest

from reconcile.errors import ExitCode, LeaseHeld, SafetyStop, Unavailable, UsageError
from reconcile.report.audit import AuditReport, Coverage, Duplicates, RedisCounters, SliceCompared, SurplusReport
from reconcile.report.run_report import SCHEMA_VERSION, DriftReport, RunReport, ViewReport
from reconcile.report.text import render, summaries

AS_OF = 1_755_860_000_000
AT = f"as of {AS_OF} (2025-08-22T10:53:20.000Z)"


def view(**fields: object) -> ViewReport:
    made = ViewReport("orders")
    for name, value in fields.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def report(*views: ViewReport, mode: str = "run") -> RunReport:
    return RunReport("id", mode, 0, list(views))


def failed(error: Unavailable | SafetyStop, **fields: object) -> ViewReport:
    made = view(**fields)
    made.fail(error)
    return made


def drift(**fields: object) -> DriftReport:
    made = DriftReport()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


DOWN = Unavailable("Materialize is not available: refused", hint="is it running?")
WITHHELD = SafetyStop("900 of 1000 keys would be deleted", hint="run: reconcile snapshot --allow-deletes")
KEYS = [
    {"key": "a", "kind": "missing", "cause": "changed outside"},
    {"key": "b", "kind": "stale", "cause": "missed updates", "source": "1", "redis": None},
]

CASES: list[tuple[str, RunReport, list[str]]] = [
    ("nothing", report(), []),
    ("nothing to do", report(view(as_of=AS_OF, keys=1234)), [f"orders: nothing to do; 1,234 keys; {AT}"]),
    (
        "snapshot of some buckets",
        report(
            view(
                action="snapshot", reason="history lost", puts=12_345, deletes=1, commits=1, buckets=16_384,
                buckets_read=40, as_of=AS_OF, keys=1_000_000,
            )
        ),
        [
            "orders: snapshot (history lost): put 12,345, delete 1; read 40 of 16,384 buckets; "
            f"1,000,000 keys; {AT}"
        ],
    ),
    (
        "deep snapshot",
        report(view(action="snapshot", reason="first contact", deep=True, puts=2, commits=1, buckets=16, as_of=AS_OF, keys=2)),
        [f"orders: deep snapshot (first contact): put 2, delete 0; 2 keys; {AT}"],
    ),
    (
        "delta",
        report(view(action="delta", puts=3, deletes=2, updates=7_000, commits=4, as_of=AS_OF, keys=9)),
        [f"orders: delta: put 3, delete 2; 7,000 updates, 4 commits; 9 keys; {AT}"],
    ),
    (
        "dry run",
        report(view(action="delta", dry_run=True, puts=1, commits=1, as_of=AS_OF)),
        [f"orders: delta: would put 1, would delete 0; 0 updates, 1 commit; {AT}"],
    ),
    (
        "two views",
        report(view(as_of=AS_OF), failed(DOWN)),
        [
            f"orders: nothing to do; {AT}",
            "orders: error: Materialize is not available: refused",
            "  hint: is it running?",
        ],
    ),
    ("skipped", report(view(skipped=True, reason="view orders is being written by h:1")), ["orders: skipped: view orders is being written by h:1"]),
    (
        "failed after some work",
        report(failed(WITHHELD, action="snapshot", reason="asked for", deep=True, puts=5, as_of=AS_OF)),
        [
            f"orders: deep snapshot (asked for): put 5, delete 0; {AT}",
            "orders: error: 900 of 1000 keys would be deleted",
            "  hint: run: reconcile snapshot --allow-deletes",
        ],
    ),
    (
        "warnings",
        report(view(as_of=AS_OF, warnings=["one", "two"])),
        [f"orders: nothing to do; {AT}", "  note: one", "  note: two"],
    ),
    (
        "in sync",
        report(view(action="verify", drift=drift(), keys=10, as_of=AS_OF), mode="verify"),
        [f"orders: in sync; 10 keys; {AT}"],
    ),
    (
        "not all judged",
        report(
            view(
                action="verify", drift=drift(unjudged_buckets=3, unjudged_keys=1), keys=10, buckets=16, as_of=AS_OF,
                exit_code=ExitCode.INCOMPLETE,
            ),
            mode="verify",
        ),
        [f"orders: incomplete: no drift in what was judged, but 3 of 16 buckets (1 key) could not be; 10 keys; {AT}"],
    ),
    (
        "merely lagging",
        report(view(action="verify", drift=drift(lagging_buckets=3), keys=10, as_of=AS_OF), mode="verify"),
        [
            f"orders: in sync; 10 keys; {AT}",
            "  note: 3 buckets have changed at the source since then (not drift)",
        ],
    ),
    (
        "drift",
        report(
            view(
                action="verify", exit_code=ExitCode.DRIFT, keys=10, as_of=AS_OF,
                drift=drift(missing=1_500, stale=1, extra=2, buckets=7, keys=KEYS),
            ),
            mode="verify",
        ),
        [
            f"orders: DRIFT: 1,500 missing, 1 stale, 2 extra in 7 buckets; 10 keys; {AT}",
            "  missing  a  (changed outside)",
            "  stale    b  (missed updates)  source='1' redis=None",
            "  … and 1,501 more (--max-report)",
            "  hint: to repair it now, run: reconcile snapshot --view orders --deep",
        ],
    ),
    (
        "drift that waits for consent",
        report(view(as_of=AS_OF, drift=drift(extra=20, buckets=1, causes={"waits for consent": 1})), mode="verify"),
        [
            f"orders: DRIFT: 0 missing, 0 stale, 20 extra in 1 bucket; {AT}",
            "  … and 20 more (--max-report)",
            "  hint: if these keys may go, run: reconcile snapshot --view orders --allow-deletes",
        ],
    ),
    (
        "drift before the first run",
        report(view(drift=drift(missing=1, buckets=1, causes={"no checkpoint": 1})), mode="verify"),
        [
            "orders: DRIFT: 1 missing, 0 stale, 0 extra in 1 bucket",
            "  … and 1 more (--max-report)",
            "  hint: run: reconcile run --view orders",
        ],
    ),
    (
        "drift by fingerprints, no rows looked at",
        report(
            view(
                action="verify", exit_code=ExitCode.DRIFT, as_of=AS_OF, audit=AuditReport(fast=True),
                drift=drift(buckets=3, causes={"missed updates": 2, "manifest damaged": 1}),
            ),
            mode="verify",
        ),
        [
            f"orders: DRIFT: 0 missing, 0 stale, 0 extra in 3 buckets; {AT}",
            "  cause: missed updates (2 buckets), manifest damaged (1 bucket)",
            "  hint: to repair it now, run: reconcile snapshot --view orders --deep",
        ],
    ),
    (
        "notes on a view that failed at once",
        report(failed(DOWN, warnings=["one"])),
        ["orders: error: Materialize is not available: refused", "  hint: is it running?", "  note: one"],
    ),
    (
        "verify that could not finish",
        report(failed(DOWN, action="verify", drift=drift(), as_of=AS_OF), mode="verify"),
        ["orders: error: Materialize is not available: refused", "  hint: is it running?"],
    ),
    ("verify that could not begin", report(failed(DOWN), mode="verify"), ["orders: error: Materialize is not available: refused", "  hint: is it running?"]),
]  # fmt: skip


@pytest.mark.parametrize(("made", "lines"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_people_read(made: RunReport, lines: list[str]) -> None:
    """One line per view, then what needs attention; never a word of drift where none was found."""
    assert render(made).splitlines() == lines


def test_evidence_of_an_audit() -> None:
    """What was found beside the drift stands below it; what was looked for and not found says nothing."""
    audit = AuditReport(
        counters=RedisCounters(AS_OF, AS_OF, 1204, 1, "allkeys-lru"),
        surplus=[SurplusReport(None, "the prefix 'orders:'", 17, ["orders:a\x1b"])],
        duplicates=Duplicates(2, ["orders:7"]),
        coverage=Coverage(64, [SliceCompared(1, AS_OF, "verify")]),
    )
    found = drift(missing=1, buckets=1, keys=[{"key": "orders:1", "kind": "missing", "cause": "changed outside"}])
    made = report(view(action="verify", drift=found, keys=10, as_of=AS_OF, audit=audit), mode="verify")
    assert render(made).splitlines()[2:] == [
        "  evidence: Redis evicted 1,204 keys since 2025-08-22T10:53:20.000Z (allkeys-lru)",
        "  evidence: Redis expired 1 key since 2025-08-22T10:53:20.000Z, of all that it holds",
        "  evidence: Redis restarted at 2025-08-22T10:53:20.000Z",
        "  evidence: surplus: 17 keys that neither source nor manifest knows; claimed by no other view "
        "(this one has the prefix 'orders:'): orders:a\\x1b and 16 more",
        "  evidence: 2 keys have several rows in the source: orders:7 and 1 more",
        "  evidence: 63 of 64 slices were never compared",
        "  hint: to repair it now, run: reconcile snapshot --view orders --deep",
    ]


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (
            report(
                view(
                    action="snapshot",
                    reason="history lost",
                    puts=3,
                    deletes=1,
                    commits=1,
                    deep=True,
                    as_of=AS_OF,
                    keys=9,
                    duration_ms=3210,
                )
            ),
            f"orders: run: deep snapshot (history lost): put 3, delete 1; 9 keys; took 3.2 s; {AT}; exit 0",
        ),
        (
            report(failed(DOWN, duration_ms=10_040)),
            "orders: run: Materialize is not available: refused; took 10 s; exit 6",
        ),
        (report(view(skipped=True, reason="leased")), "orders: run: skipped: leased; exit 0"),
        (
            report(view(action="verify", drift=drift(), keys=9, as_of=AS_OF, duration_ms=50), mode="verify"),
            f"orders: verify: in sync; 9 keys; took 50 ms; {AT}; exit 0",
        ),
        (report(), "run: exit 0: no views"),
    ],
)
def test_a_line_that_can_be_read_a_month_later(made: RunReport, line: str) -> None:
    """What, why, how much, how long, as of when, and how it ended."""
    assert summaries(made) == [line]


def test_what_comes_from_outside_is_printable() -> None:
    """Neither an error nor a key can obey a terminal or forge a line."""
    made = failed(Unavailable("a\nb\x1b[31m", hint="c\x07"), warnings=["d\re"])
    made.drift = drift(stale=1, keys=[{"key": "k\x1b", "kind": "stale", "cause": "both"}])
    shown = render(report(made, mode="verify"))
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert len(shown.splitlines()) == 6


def test_an_error_before_any_view() -> None:
    """Configuration and usage errors stand alone; without hint there is no empty line."""
    made = report()
    made.fail(UsageError("no view is named 'x'"))
    assert render(made) == "error: no view is named 'x'"
    assert (made.status, made.exit_code) == ("failed", ExitCode.USAGE)


@pytest.mark.parametrize("made", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_the_same_for_programs(made: RunReport) -> None:
    """Every report is one JSON object with status and exit code for the run and for each view."""
    parsed = json.loads(json.dumps(made.to_dict()))
    assert parsed["schema_version"] == SCHEMA_VERSION
    assert parsed["exit_code"] == int(made.exit_code)
    assert [one["status"] for one in parsed["views"]] == [one.status for one in made.views]
    for one in parsed["views"]:
        assert (one["as_of_text"] is None) == (one["as_of"] is None)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (view(), "done"),
        (view(skipped=True), "skipped"),
        (view(exit_code=ExitCode.DRIFT, drift=DriftReport(missing=1)), "drift"),
        (view(exit_code=ExitCode.DRIFT, dry_run=True), "changes"),
        (view(exit_code=ExitCode.INCOMPLETE), "partial"),
        (failed(WITHHELD), "stopped"),
        (failed(DOWN), "failed"),
        (view(exit_code=ExitCode.HISTORY_LOST), "failed"),
        (view(exit_code=ExitCode.LEASE_HELD), "failed"),
        (view(exit_code=ExitCode.BUG), "failed"),
    ],
)
def test_the_status_of_a_view(made: ViewReport, status: str) -> None:
    """One word per outcome, from the exit code."""
    assert made.status == status
    assert report(made).status == status
    assert report(view(), made).status == ("done" if made.skipped else status)


def test_the_run_is_as_bad_as_its_worst_view() -> None:
    """Exit code and status of several views follow the priority of codes."""
    made = report(view(exit_code=ExitCode.INCOMPLETE), failed(WITHHELD), failed(DOWN), view())
    assert (made.exit_code, made.status) == (ExitCode.SAFETY_STOP, "stopped")
    assert not made.retryable


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(code, code in (ExitCode.BUG, ExitCode.UNAVAILABLE)) for code in ExitCode],
)
def test_what_may_be_retried_at_once(code: ExitCode, retryable: bool) -> None:
    """Only outages (and what we do not understand) may pass by themselves."""
    assert report(view(exit_code=code)).retryable is retryable


def test_phases_add_up() -> None:
    """Time spent in a phase counts each time it is entered, also when it fails."""
    made = view()
    with pytest.raises(LeaseHeld), made.phase("read"):
        raise LeaseHeld("held")
    with made.phase("read"):
        pass
    assert list(made.phases_ms) == ["read"]
    assert made.phases_ms["read"] >= 0

"""Several reads of one content: all at the same Materialize time T.

Without retained history one read transaction stays open: its reads share a time, it holds compaction back, and
mz_now() in it names T (transcript `transaction_snapshot`). With an explicit time every statement says AS OF T.

The first statement must read the view: one that reads only the catalog would pin the transaction to another cluster.
EXPLAIN TIMESTAMP counts as reading it, and already fixes T.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from reconcile.core.changes import null_key
from reconcile.core.digest import Fingerprints, fingerprint, same_fingerprint
from reconcile.core.framing import Row
from reconcile.core.times import MAX_TIMESTAMP, span
from reconcile.errors import Incomplete, ReconcileError, Unavailable, UsageError
from reconcile.source import catalog, query
from reconcile.source.errors import once_described
from reconcile.source.frontiers import Explained, parse_explanation
from reconcile.source.query import Mapping
from reconcile.source.session import Session

logger = logging.getLogger(__name__)

Still = Callable[[], bool]
"""Whether the query is still the one that was explained."""

BEHIND_S = 5.0
"""A view that has come this far behind the present does more than wait for its next tick, which comes every second."""


class Reading:
    """The view's content at `as_of`. Made by `open_reading`."""

    def __init__(
        self, session: Session, mapping: Mapping, as_of: int, explicit: bool, explained: Explained, plan: str
    ) -> None:
        self._session = session
        self._plan = plan
        self.mapping = mapping
        self.as_of = as_of
        self.explained = explained
        self._at = as_of if explicit else None
        self._ended = False
        self._reads = 0
        """How many statements have read the view."""
        self._checked = explicit or as_of == MAX_TIMESTAMP

    @property
    def of_the_present(self) -> bool:
        """Whether this reads the present in one transaction, rather than a requested time."""
        return self._at is None

    def rows(self) -> Iterator[list[Row]]:
        """Return all rows in chunks. Raises DataError for a NULL key."""
        for statement in self.mapping.in_parts(self.mapping.mapped()):
            yield from self._rows(statement)

    def rows_of(self, chosen: list[int], buckets: int) -> Iterator[list[Row]]:
        """Return the rows of the chosen buckets in chunks."""
        for some in self._in_parts(chosen):
            yield from self._rows(self.mapping.mapped() + self.mapping.within(some, buckets))

    def _rows(self, statement: str) -> Iterator[list[Row]]:
        rows_of = self.mapping.form.rows
        for chunk in self._stream(statement):
            yield rows_of(chunk)

    def _in_parts(self, chosen: list[int]) -> list[list[int]]:
        """Split the chosen buckets into as many lists as the view is read in results."""
        parts = min(self.mapping.parts, len(chosen))
        return [chosen[i::parts] for i in range(parts)]

    def fingerprints(self, buckets: int, salt: str, companion: str | None = None) -> tuple[Fingerprints, list[int]]:
        """Return (fingerprint, rows) per bucket, from the companion view (made with that salt) or by one GROUP BY.

        salt: 32 hexadecimal characters. Raises DataError for a NULL key.
        """
        mapping = self.mapping
        statement = mapping.fingerprints(buckets, salt)
        if companion is not None:
            statement = query.companion_rows(companion, mapping.shard)
        found = same_fingerprint(buckets, fingerprint(0))
        rows = [0] * buckets
        for chunk in self._stream(statement, numbers=True):
            for bucket, count, hash_sum in chunk:
                if bucket is None:
                    raise null_key()
                index = int(bucket)
                if not 0 <= index < buckets:
                    raise UsageError(
                        f"companion view {companion} was made for more than {buckets} buckets",
                        hint="create it again: reconcile init --companion",
                    )
                rows[index] = int(count or 0)
                found[index] = fingerprint(int(hash_sum or 0))
        return found, rows

    def fingerprint_of(self, bucket: int, buckets: int, salt: str) -> int:
        """Compute one bucket's fingerprint."""
        mapping = self.mapping
        statement = f"SELECT sum({mapping.hash_sql(salt)}) AS fingerprint FROM {mapping.source}"
        ((total,),) = self._fetch(statement + mapping.within([bucket], buckets))
        return fingerprint(int(total or 0))

    def repeated_keys(self, chosen: list[int], buckets: int, names: int) -> tuple[int, list[bytes]]:
        """Return (how many keys of the chosen buckets have several rows, at most `names` of them)."""
        statement = catalog.repeated_keys(self.mapping, self.mapping.within(chosen, buckets))
        found = [key for key, _ in self._fetch(f"{statement} LIMIT {names + 1}") if key is not None]
        if len(found) <= names:
            return len(found), found
        ((count,),) = self._fetch(f"SELECT count(*) FROM ({statement}) AS r")
        return int(count or 0), found[:names]

    def still(self) -> bool:
        """Whether the query is still the one that was explained."""
        return still(self._session, self.mapping, self.explained, self._plan, self._at)

    def of_one_view(self) -> bool:
        """Whether all that was read is of one view, as one may be swapped between two statements.

        To be checked before committing it. (If it is of one view, but not of the one that was explained, the next run
        finds another identity.)
        """
        return self._reads < 2 or self.still()

    def end(self) -> None:
        """End the read before the block does; another read hold may keep its time readable."""
        if not self._ended:
            self._ended = True
            if self._at is None:
                with contextlib.suppress(ReconcileError):
                    self._session.run("COMMIT")

    def _fetch(self, statement: str) -> list[tuple[bytes | None, ...]]:
        self._reads += 1
        with self._waiting():
            rows = self._session.fetch(query.as_of(statement, self._at))
        self._check_time()
        return rows

    def _stream(self, statement: str, *, numbers: bool = False) -> Iterator[list[tuple[bytes | None, ...]]]:
        self._reads += 1
        with self._waiting():
            yield from self._session.stream(query.as_of(statement, self._at), numbers=numbers)
        self._check_time()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Say why a statement was not answered: the view has gone, or had not come as far as T at the beginning."""
        try:
            with once_described():
                yield
        except Unavailable as error:
            upper = self.explained.frontiers.upper
            behind_s = 0.0 if upper is None else (self.as_of - upper) / 1000
            if not self._session.silent or behind_s < BEHIND_S:
                raise
            raise Unavailable(
                f"{error.message}; the view is {span(behind_s * 1000)} behind the time to read",
                hint="its cluster has no replicas, is still reading, or a source of it has stopped",
            ) from error

    def _check_time(self) -> None:
        """Check that the transaction reads at the T that EXPLAIN TIMESTAMP gave before the first read."""
        if self._checked:
            return
        ((text,),) = self._session.fetch("SELECT mz_now()::text")
        if text is None or int(text) != self.as_of:
            raise Unavailable(
                "Materialize read at a different time than it had announced", hint="the next run tries again"
            )
        self._checked = True


@contextlib.contextmanager
def open_reading(session: Session, mapping: Mapping, as_of: int | None, plan: str = "") -> Iterator[Reading]:
    """Open a reading at as_of, or at the present (None). plan: the query's, for `still`.

    Raises HistoryLost if that time can no longer be read.
    """
    if as_of is not None:
        explained = explain(session, mapping, as_of)
        yield Reading(session, mapping, as_of, True, explained, plan)
        return
    session.run("BEGIN")
    explained = explain(session, mapping)
    if explained.ahead_ms > session.read_timeout_s * 1000:
        session.close()
        raise Unavailable(
            f"Materialize can read the view only in {span(explained.ahead_ms)}",
            hint="a view WITH (REFRESH …) cannot be read before its first refresh, nor in one transaction anything "
            "else of its schema: move one of them to another schema",
        )
    reading = Reading(session, mapping, explained.frontiers.now, False, explained, plan)
    try:
        yield reading
    except BaseException:
        # A statement may be half read. COMMIT would wait for ever for its end, which nobody reads.
        session.close()
        raise
    reading.end()


def explain(session: Session, mapping: Mapping, as_of: int | None = None) -> Explained:
    """Return frontiers and objects of the view's query; with as_of, also check that time."""
    with once_described():
        return _explained(session, mapping, as_of)


def _explained(session: Session, mapping: Mapping, as_of: int | None) -> Explained:
    ((text,),) = session.fetch(query.as_of(query.current_of(mapping.sql), as_of))
    return parse_explanation(str(text or b"", "utf-8"))


def plan_of(session: Session, sql: str, *, planning: bool = False) -> str:
    """Return the plan of a query, which changes with every plain view in it."""
    rows = session.fetch(query.plan_of(sql), planning=planning)
    return "\n".join(str(row[0] or b"", "utf-8") for row in rows)


def still(session: Session, mapping: Mapping, before: Explained, plan: str = "", as_of: int | None = None) -> bool:
    """Whether the query still reads the same objects, by the same names, and by this plan if one is given. Ask on
    another session, once a subscription has started.
    """
    try:
        same = set(_explained(session, mapping, as_of).objects) == set(before.objects)
        return same and (not plan or _is_plan(session, mapping.sql, plan))
    except UsageError:  # dropped, or replaced by something that this transaction cannot read
        return False


def _is_plan(session: Session, sql: str, plan: str) -> bool:
    """Whether this is the query's plan.

    If it is another one in this session's transaction, or is not told there, a session outside decides, where it was
    asked for first. It is also taken for the same if it differs each time, as that of a query that calls now() does:
    then it proves nothing.
    """
    try:
        if plan_of(session, sql, planning=True) == plan:
            return True
    except (Unavailable, Incomplete):
        raise
    except ReconcileError as error:
        logger.debug("the plan is not told within a transaction: %s", error.message)
    with contextlib.closing(session.another()) as outside:
        now = plan_of(outside, sql, planning=True)
        return now == plan or now != plan_of(outside, sql, planning=True)


def check_still(still: Still) -> None:
    """Raise Unavailable if the view was replaced: what was read may belong to two views. Call before keeping any."""
    if not still():
        raise replaced()


def replaced() -> Unavailable:
    """Return the error for a view that was replaced while it was read."""
    return Unavailable("the view was replaced while it was read", hint="the next run reads it again")


def rows_of_key(session: Session, mapping: Mapping, key: bytes, as_of: int | None) -> list[Row]:
    """Return the rows of one Redis key, now or at a readable time; at most three, enough to show duplicates."""
    statement = catalog.rows_of_key(mapping, key)
    if statement is None:
        return []
    return [row for chunk in session.stream(query.as_of(statement, as_of)) for row in mapping.form.rows(chunk)]

"""What every run of one view needs: connections, the query's mapping, the stored state. Opened late, always closed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from reconcile.config.settings import Settings, ViewSettings
from reconcile.core import state as states
from reconcile.core.companion import Companion
from reconcile.core.keys import KeyShape
from reconcile.core.state import Identity, State
from reconcile.errors import HistoryLost, LeaseHeld, ReconcileError, ResultTooLarge, SafetyStop, Unavailable, UsageError
from reconcile.report.run_report import ViewReport
from reconcile.runs.request import Request
from reconcile.source import query
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.source.frontiers import Explained
from reconcile.source.query import Mapping
from reconcile.source.reading import companion_ids
from reconcile.source.session import Session
from reconcile.stop import Stop
from reconcile.target import connection, store
from reconcile.target import lease as leases
from reconcile.target.connection import Wire
from reconcile.target.fence import Fence, open_fence
from reconcile.target.keyspace import Keyspace
from reconcile.target.lease import Lease
from reconcile.target.store import Stored

LEASE_LOOK_EVERY_S = 0.5
LEASE_WAIT_MAX_S = 3600.0
"""`--if-leased wait` gives up after this."""
PARTS_STEP = 8
MAX_PARTS = 512
"""A view is read in 8, 64 or 512 parts where Materialize refuses it as one result. Each part is a pass over it."""
RELEASE_S = 2.0
"""How long the end of a run tries to give the lease back. It expires by itself, but the next run would have to wait."""


class ViewRun:
    """One view in one invocation. Use `open_view`; the `with` block closes whatever was opened."""

    def __init__(
        self, settings: Settings, view: ViewSettings, request: Request, stop: Stop, report: ViewReport
    ) -> None:
        self.settings = settings
        self.view = view
        self.request = request
        self.stop = stop
        self.report = report
        self.keyspace = Keyspace(
            view=view.name,
            prefix=view.key_prefix.encode(),
            dedicated=settings.redis.dedicated,
            mz_timestamp_key=view.mz_timestamp_key.encode() if view.mz_timestamp_key else None,
        )
        self._closing = contextlib.ExitStack()
        self._wires: list[Wire] = []
        self.reader = self._open_wire()
        self.stored = Stored(None, 0, None)
        self.lease: Lease | None = None
        self._mapping: Mapping | None = None
        self._environment_id = ""
        self._plan = ""
        self.companion_ids = ""
        """Ids of what the companion view reads: they change when it is replaced."""
        self.companions: dict[str, Companion | None] = {}
        """Companion views that were looked at in this run."""

    # -- connections ---------------------------------------------------------------------------------------------

    def _open_wire(self) -> Wire:
        wire = connection.connect(self.settings.redis, self.stop)
        self._closing.callback(wire.close)
        self._closing.enter_context(wire.bounded())
        self._wires.append(wire)
        return wire

    def open_session(self) -> Session:
        """A connection to Materialize, closed with this run."""
        session = sessions.connect(self.settings.materialize, self.stop, self.view.name)
        self._closing.callback(self._close_session, session)
        return session

    def _close_session(self, session: Session) -> None:
        session.close()
        self.report.rows_read += session.rows_read
        self.report.source_statements += session.statements
        self.report.source_bytes += session.bytes_received

    def close(self) -> None:
        """Give everything back and complete the report's counters."""
        for wire in self._wires:
            self.report.redis_commands += wire.commands
            self.report.redis_round_trips += wire.round_trips
        self._closing.close()

    # -- the source ----------------------------------------------------------------------------------------------

    def describe(self, session: Session) -> Mapping:
        """Check the query and its columns; nothing is read."""
        if self._mapping is None:
            self._environment_id = session.environment_id()
            self._mapping = map_view(session, self.view)
            self._plan = self._read_plan(session)
            if self.view.digest_view is not None:
                self.companion_ids = companion_ids(session, self.view.digest_view)
        return self._mapping

    def in_smaller_parts(self, refused: ResultTooLarge) -> Mapping:
        """How to read the view after Materialize refused a result. Raises `refused` when there is no other way.

        Some of what was read may be in Redis already, under the pending mark: the stored state is looked at again.
        """
        assert self._mapping is not None
        parts = self._mapping.parts * PARTS_STEP
        if parts > MAX_PARTS:
            raise refused
        self._mapping = dataclasses.replace(self._mapping, parts=parts)
        self.stored = self._read_stored()
        self.report.warnings.append(f"{refused.message}: the view is read in {parts} parts")
        return self._mapping

    def _read_plan(self, session: Session) -> str:
        """The plan, as Materialize shows it; empty, with a warning, where it does not."""
        try:
            rows = session.fetch(query.plan_of(self.view.sql))
        except Unavailable:
            raise
        except ReconcileError as error:
            self.stop.check()
            self.report.warnings.append(
                f"the query's plan is not shown, so that a plain view which is replaced is not noticed: {error.message}"
            )
            return ""
        return "\n".join(str(row[0] or b"", "utf-8") for row in rows)

    def identity(self, mapping: Mapping, explained: Explained) -> Identity:
        """What the content at a time is content of."""
        signature = [*mapping.signature, self.keyspace.ownership]
        parts = [self._environment_id, *explained.ids, mapping.sql, *mapping.columns, self._plan]
        return Identity(
            source=states.identity_hash([*parts, *signature]),
            mapping=states.identity_hash(signature),
        )

    # -- the target ----------------------------------------------------------------------------------------------

    def peek(self) -> None:
        """Look at the stored state before anything is written: a newer format or a corrupt state stops here."""
        if not self.request.reset_state:
            store.read_state(self.reader, self.keyspace)

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """Hold the lease (not in a dry run) and know the stored state. Raises LeaseHeld."""
        if self.request.dry_run:
            self.stored = self._read_stored()
            yield
            return
        self.lease = self._acquire()
        try:
            self.stored = self._read_stored()
            with self.lease.renewed(self._open_lease_wire):
                yield
        except (SafetyStop, HistoryLost) as error:
            # A run that was overtaken compares what it knew with what another has written since: no call for a human.
            if self._overtaken(self.lease):
                raise leases.lease_lost(self.view.name) from error
            raise
        finally:
            with contextlib.suppress(ReconcileError):
                self._give_back(self.lease.owner)

    def _overtaken(self, lease: Lease) -> bool:
        if self.reader.broken:
            return False
        return bool(self.reader.call("HGET", self.keyspace.state, "token") != str(lease.token).encode())

    def _give_back(self, owner: bytes) -> None:
        """Let go of the lease; by a connection of its own where the run's is broken."""
        until = time.monotonic() + RELEASE_S
        if not self.reader.broken:
            self.reader.answer_within(RELEASE_S)
            try:
                leases.give_back(self.reader, self.keyspace, owner)
                return
            except ReconcileError:
                if not self.reader.broken:
                    raise
        left_s = until - time.monotonic()
        if left_s <= 0:
            return
        brief = dataclasses.replace(self.settings.redis, connect_timeout_s=left_s, timeout_s=left_s)
        wire = connection.connect(brief, Stop())
        try:
            leases.give_back(wire, self.keyspace, owner)
        finally:
            wire.close()

    def _open_lease_wire(self) -> Wire:
        return connection.connect(self.settings.redis, Stop())

    def _acquire(self) -> Lease:
        limits = self.settings.limits
        owner = leases.new_owner()
        give_up_at = time.monotonic() + LEASE_WAIT_MAX_S
        while True:
            try:
                return leases.acquire(
                    self.reader, self.keyspace, limits.lease_s, owner=owner, reset=self.request.reset_state
                )
            except LeaseHeld:
                if self.request.if_leased != "wait" or time.monotonic() >= give_up_at:
                    raise
            except ReconcileError:
                # It may have been taken all the same: the next run must not find the view leased by nobody.
                with contextlib.suppress(ReconcileError):
                    self._give_back(owner)
                raise
            self.stop.wait(LEASE_LOOK_EVERY_S)
            self.stop.check()

    def _read_stored(self) -> Stored:
        if self.request.reset_state and self.request.dry_run:
            return Stored(None, 0, None)
        return store.read_stored(self.reader, self.keyspace)

    def new_fence(self) -> Fence | None:
        """The way to write; None in a dry run. Its connection serves nothing else."""
        return None if self.lease is None else open_fence(self._open_wire(), self.lease)

    @property
    def state(self) -> State | None:
        return self.stored.state

    @property
    def base_state(self) -> State:
        """The state to derive the next one from, with this run's token."""
        token = self.lease.token if self.lease is not None else 0
        return dataclasses.replace(self.stored.state or State(), token=token)


def map_view(session: Session, view: ViewSettings) -> Mapping:
    """The query's columns, checked against the configuration; nothing is read. Raises SchemaError, UsageError."""
    if view.layout != "string" or view.expires_at:
        raise UsageError("layouts but 'string' and expires_at are not there yet", hint="layout: string, one value")
    columns = session.columns(query.describe(view.sql))
    shape = KeyShape(view.key_prefix, view.key_columns, view.key_literals)
    return map_columns(view.sql, columns, shape, view.value_columns, layout=view.layout, view=view.name)


@contextlib.contextmanager
def open_view(
    settings: Settings, view: ViewSettings, request: Request, stop: Stop, report: ViewReport
) -> Iterator[ViewRun]:
    """Connect to Redis for one view. Raises AccessError, UsageError, Unavailable."""
    run = ViewRun(settings, view, request, stop, report)
    try:
        yield run
    finally:
        run.close()

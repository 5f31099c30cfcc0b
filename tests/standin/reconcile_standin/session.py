"""A session: its variables, its transaction, and the times its statements read at."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reconcile_standin import asof, system
from reconcile_standin.catalog import DATABASE, SUPERUSER
from reconcile_standin.problem import SqlError, canceled
from reconcile_standin.variables import ENVIRONMENT_ID, MZ_VERSION, Variables

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconcile_standin import syntax as s
    from reconcile_standin.catalog import Catalog, Item
    from reconcile_standin.engine import Engine, Row
    from reconcile_standin.plan import Facts, Plan, Relation
    from reconcile_standin.storage import Store
    from reconcile_standin.values import Value

_WAIT_S = 0.25
END_OF_TIME = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Notice:
    """A NoticeResponse."""

    message: str
    code: str = "00000"
    hint: str | None = None


@dataclass
class Transaction:
    """An explicit transaction. kind: what its first statement made of it."""

    kind: str | None = None
    ts: int = 0
    hold: int | None = None
    domain: set[str] = field(default_factory=set)
    writes: list[tuple[Item, list[Row]]] = field(default_factory=list)
    cursors: dict[str, Any] = field(default_factory=dict)


class Session:
    """Everything but the wire. Used by one thread; `cancel` may come from any."""

    def __init__(self, store: Store, role: str, pid: int) -> None:
        self.store = store
        self.role = role
        self.pid = pid
        self.variables = Variables()
        self.transaction: Transaction | None = None
        self.failed = False
        self.notices: list[Notice] = []
        self.alive: Callable[[], bool] = lambda: True
        self._canceled = threading.Event()
        self._running = False
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """This session's connection for reading."""
        if self._engine is None:
            self._engine = self.store.reader()
        return self._engine

    @property
    def catalog(self) -> Catalog:
        """All names."""
        return self.store.catalog

    @property
    def search_path(self) -> list[str]:
        """Where unqualified names are looked up."""
        return self.variables.search_path

    @property
    def cluster(self) -> str:
        """The active cluster's name."""
        return self.variables.get("cluster")

    def system_relation(self, parts: tuple[str, ...]) -> Relation | None:
        """A relation of the system catalog."""
        return system.relation(self.store, parts)

    def fact(self, name: str) -> Value:
        """The value of a session function."""
        if name == "now":
            return time.time_ns() // 1000
        path = [p for p in self.search_path if p in self.catalog.schemas]
        return {
            "mz_version": MZ_VERSION,
            "mz_environment_id": ENVIRONMENT_ID,
            "current_database": DATABASE,
            "current_catalog": DATABASE,
            "current_schema": path[0] if path else None,
            "version": f"PostgreSQL 9.5 on x86_64-unknown-linux-gnu (Materialize {MZ_VERSION})",
            "pg_backend_pid": self.pid,
            "mz_uptime": "00:00:00",
        }.get(name, self.role)

    def notice(self, notice: Notice) -> None:
        """Something the client should be told with the next answer."""
        self.notices.append(notice)

    def check_cluster(self) -> None:
        """A notice when the active cluster does not exist."""
        if self.cluster not in self.catalog.clusters:
            self.notice(
                Notice(
                    f'cluster "{self.cluster}" does not exist',
                    "MZ007",
                    "Create the cluster with CREATE CLUSTER or pick an extant cluster with SET CLUSTER = name. "
                    "List available clusters with SHOW CLUSTERS.",
                )
            )

    # Cancellation

    def start(self) -> None:
        """A statement begins: older cancel requests no longer count."""
        self._canceled.clear()
        self._running = True

    def finish(self) -> None:
        """The statement is over."""
        self._running = False

    def cancel(self) -> None:
        """A CancelRequest came."""
        if not self._running:
            return
        self._canceled.set()
        if self._engine is not None:
            self._engine.interrupt()
        self.store.clock.wake()

    def check(self) -> None:
        """Raise if the statement should stop."""
        if self._canceled.is_set():
            raise canceled()
        if not self.alive():
            raise ConnectionResetError("the client is gone")

    def wait_past(self, frontier: int, until: float | None = None) -> bool:
        """Wait until the upper passes a frontier; False at the deadline (time.monotonic)."""
        clock = self.store.clock
        while clock.upper <= frontier:
            self.check()
            left = _WAIT_S if until is None else min(_WAIT_S, until - time.monotonic())
            if left <= 0:
                return False
            clock.wait_past(frontier, left)
        return True

    # Times

    def permit(self, facts: Facts) -> None:
        """Check that this session may run a query."""
        self.catalog.check_read(self.role, facts.reads)
        if facts.tables and self.cluster not in self.catalog.clusters:
            raise SqlError(f"unknown cluster '{self.cluster}'")
        if facts.tables and self.cluster in self.catalog.empty_clusters:
            raise SqlError(
                f'CLUSTER "{self.cluster}" has no replicas available to service request',
                "0A000",
                hint="Use ALTER CLUSTER to adjust the replication factor of the cluster. "
                "Example:`ALTER CLUSTER <cluster-name> SET (REPLICATION FACTOR 1)`",
            )

    def since(self, facts: Facts) -> int:
        """The earliest time at which all inputs can be read."""
        return max(self.store.sinces(facts.inputs), default=0)

    def determined_since(self, facts: Facts) -> int:
        """What EXPLAIN TIMESTAMP calls since: in a read transaction, that of everything in its time domain."""
        transaction = self.transaction
        if transaction is None or transaction.kind != "read":
            return self.since(facts)
        around = [i for i in list(self.catalog.items.values()) if i.schema in transaction.domain]
        inputs = {i.id: i for item in around for i in self.catalog.storage_inputs(item, self.cluster)}
        return max(self.store.sinces(inputs.values()), default=0)

    def explicit_time(self, facts: Facts, as_of: s.AsOf) -> int:
        """The time AS OF means, checked against what is still there."""
        t = asof.evaluate(as_of.expr, self)
        since = self.since(facts)
        if as_of.at_least:
            return max(t, since)
        if t < since:
            raise SqlError(f"Timestamp ({since}) is not valid for all inputs: []")
        return t

    def read_time(self, plan: Plan, as_of: s.AsOf | None, *, wait: bool = True) -> int:
        """The time a SELECT reads at; fixes that of the transaction."""
        facts = plan.facts
        self.permit(facts)
        if as_of is not None and facts.tables:
            t = self.explicit_time(facts, as_of)
            if wait:
                self.wait_past(t)
            return t
        if as_of is not None:
            asof.evaluate(as_of.expr, self)
        if self.transaction is None:
            return max(self.store.clock.read_ts, self.since(facts))
        return self._pinned(self.transaction, facts)

    def _pinned(self, transaction: Transaction, facts: Facts) -> int:
        if transaction.kind == "write":
            raise SqlError("transaction in write-only mode", "25006")
        if transaction.kind == "subscribe":
            raise SqlError("SUBSCRIBE in transactions must be the only read statement", "25000")
        if transaction.kind is None:
            transaction.kind = "read" if facts.tables else "catalog"
            transaction.ts = self.store.clock.read_ts
            if facts.tables:
                transaction.domain = {i.schema for i in facts.inputs} | {i.schema for i in facts.reads}
                transaction.ts = max(transaction.ts, self.determined_since(facts))
                transaction.hold = self.store.clock.hold(transaction.ts)
        elif facts.tables and transaction.kind == "catalog":
            names = ", ".join(f'"{i.full_name}"' for i in facts.reads)
            raise SqlError(
                f'querying the following items {names} is not allowed from the "mz_catalog_server" cluster',
                "2F003",
                detail="The transaction is executing on the mz_catalog_server cluster, maybe having been routed there "
                "by the first statement in the transaction.",
            )
        elif facts.tables and not {i.schema for i in facts.inputs} <= transaction.domain:
            raise self._other_domain(transaction, facts)
        return transaction.ts

    def _other_domain(self, transaction: Transaction, facts: Facts) -> SqlError:
        outside = [f'"{i.full_name}"' for i in facts.inputs if i.schema not in transaction.domain]
        return SqlError(
            "Transactions can only reference objects in the same timedomain. "
            "See https://materialize.com/docs/sql/begin/#same-timedomain-error",
            "25000",
            detail=f"The following relations in the query are outside the transaction's time domain:\n"
            f"{chr(10).join(outside)}",
        )

    def enter_subscribe(self, as_of: s.AsOf | None) -> None:
        """Check and note that a transaction subscribes."""
        transaction = self.transaction
        if transaction is None:
            return
        if transaction.kind in ("read", "write", "catalog") and as_of is None:
            raise read_only()
        if transaction.kind is None:
            transaction.kind = "subscribe"

    def enter_write(self, statement: str) -> None:
        """Check and note that a transaction writes."""
        transaction = self.transaction
        if transaction is None:
            return
        if transaction.kind in ("read", "catalog", "subscribe"):
            raise read_only()
        if statement != "INSERT":
            raise SqlError(f"{statement} cannot be run inside a transaction block", "25001")
        transaction.kind = "write"

    def end(self, *, commit: bool) -> None:
        """End the transaction, applying its writes at one time."""
        transaction, self.transaction = self.transaction, None
        self.failed = False
        if transaction is None:
            return
        for cursor in transaction.cursors.values():
            cursor.close()
        if transaction.hold is not None:
            self.store.clock.release(transaction.hold)
        if commit and transaction.writes:
            writes = transaction.writes

            def work(ts: int) -> list[Item]:
                for item, rows in writes:
                    self.store.insert_rows(item, rows, ts)
                return list({item.id: item for item, _ in writes}.values())

            self.store.commit(work)

    def close(self) -> None:
        """The client is gone."""
        self.end(commit=False)
        if self._engine is not None:
            self._engine.close()

    @property
    def is_superuser(self) -> bool:
        """Whether this is the role that owns the environment."""
        return self.role == SUPERUSER


def read_only() -> SqlError:
    """A write or SUBSCRIBE in a transaction that reads."""
    return SqlError(
        "transaction in read-only mode",
        "25006",
        detail="SELECT queries cannot be combined with other query types, including SUBSCRIBE.",
    )

"""Keeps the groups of indexed and materialized views up to date beside everything else, as Materialize does."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

from reconcile_standin import tree
from reconcile_standin.catalog import SUPERUSER
from reconcile_standin.problem import SqlError
from reconcile_standin.reading import definition_of
from reconcile_standin.relations import Analyzer
from reconcile_standin.session import Session

if TYPE_CHECKING:
    from reconcile_standin.catalog import Item
    from reconcile_standin.plan import Definition
    from reconcile_standin.storage import Store

# Subscribers learn of a commit first.
_LATER_S = 0.003


class Maintainer:
    """Whoever reads a maintained view finds it ready, or waits for as long as the rest takes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._session = Session(store, SUPERUSER, 0)
        self._version = -1
        self._kept: list[tuple[Item, Item, Definition]] = []

    def run(self, stop: threading.Event) -> None:
        """Follow the commits until told to stop."""
        known = -1
        while not stop.wait(_LATER_S):
            if self._store.clock.wait_past(known, 1.0) and not stop.is_set():
                since, known = known, self._store.clock.upper
                self.step(since)

    def step(self, since: int) -> None:
        """Bring everything up to date with the commits from a time on."""
        store = self._store
        changed = store.clock.changed(since)
        if store.catalog.version != self._version:
            self._version = store.catalog.version
            self._look()
            changed = {table.number for _, table, _ in self._kept}
        for item, table, definition in self._kept:
            # An error is for those who read the view; a table may be dropped at any moment, and at the end the file.
            with contextlib.suppress(SqlError, sqlite3.Error):
                if table.number in changed and table.id in store.catalog.items:
                    store.columns(table).groups(definition, store.clock.read_ts, store.readable(item))

    def _look(self) -> None:
        catalog = self._store.catalog
        self._kept = []
        for item in list(catalog.items.values()):
            clusters = [i.cluster for i in catalog.indexes(item)]
            if item.kind == "materialized-view":
                clusters.append(item.cluster)
            if item.kind != "table" and clusters:
                self._add(item, clusters[0])
        for table in {table.id: table for _, table, _ in self._kept}.values():
            self._store.columns(table).keep_groups([d for _, t, d in self._kept if t.id == table.id])

    def _add(self, item: Item, cluster: str) -> None:
        self._session.variables.set("cluster", cluster)
        name = tree.Table((item.schema, item.name), None, (), 0, 0)
        everything = tree.Item(tree.Star(None), None)
        query = tree.Query(tree.Core((everything,), name, None, (), None, distinct=False))
        try:
            plan = Analyzer(self._session).plan(query)
        except SqlError:
            # Dropped a moment ago.
            return
        grouped, definition = plan.relation.grouped, definition_of(plan)
        if grouped is not None and definition is not None:
            self._kept.append((item, grouped.source.table, definition))

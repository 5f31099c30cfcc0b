"""Queries to the engine's SQL: FROM, WHERE, GROUP BY, set operations, views inlined."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from reconcile_standin import functions, operators, shapes, types
from reconcile_standin import syntax as s
from reconcile_standin.definitions import Parser
from reconcile_standin.plan import Column, Kept, Linear, Plan, Relation
from reconcile_standin.problem import SqlError
from reconcile_standin.scope import Scope
from reconcile_standin.translate import Expressions, Parameter, Session
from reconcile_standin.typed import Typed, cast, known, unify

if TYPE_CHECKING:
    from reconcile_standin.catalog import Catalog, Item

# An expression longer than this is computed in a subquery instead of being copied to every place that uses it.
_INLINE_MAX = 4000


class Names(Session, Protocol):
    """What the analysis needs of a session."""

    @property
    def catalog(self) -> Catalog:
        """All names."""
        ...

    @property
    def search_path(self) -> list[str]:
        """Where unqualified names are looked up."""
        ...

    @property
    def cluster(self) -> str:
        """The active cluster."""
        ...

    def system_relation(self, parts: tuple[str, ...]) -> Relation | None:
        """A relation of the system catalog."""
        ...


@dataclass
class From:
    """A FROM clause: engine SQL (with its WHERE terms), and the columns it offers."""

    sql: str
    scope: Scope
    where: list[str]
    linear: Linear | None = None
    relation: Relation | None = None


class Analyzer(Expressions):
    """One analysis of one query."""

    def __init__(self, names: Names, params: tuple[Parameter, ...] = ()) -> None:
        super().__init__(names, params)
        self.names = names
        self.aliases = 0
        self.ctes: dict[str, tuple[tuple[str, ...], s.Query]] = {}
        self.view_refs: dict[str, str] | None = None

    def plan(self, query: s.Query) -> Plan:
        """The whole query."""
        return Plan(self.relation(query, None), self.facts)

    def alias(self) -> str:
        """A name no query can contain."""
        self.aliases += 1
        return f"ŧ{self.aliases}ŧ"

    def relation(self, query: s.Query, outer: Scope | None) -> Relation:
        """A query with its ORDER BY and LIMIT."""
        kept = self.ctes
        self.ctes = {**kept, **{name: (columns, inner) for name, columns, inner in query.ctes}}
        try:
            return self._limited(query, outer)
        finally:
            self.ctes = kept

    def _limited(self, query: s.Query, outer: Scope | None) -> Relation:
        if isinstance(query.body, s.Core):
            found = self._core(query.body, query.order, outer)
        elif isinstance(query.body, s.SetOperation):
            found = self._set_operation(query.body, outer)
        else:
            found = self._values(query.body, outer)
        if query.order and not found.ordered:
            terms = [self._output_order(item, found) for item in query.order]
            found = replace(found, sql=f"SELECT * FROM ({found.sql}) ORDER BY {', '.join(terms)}", ordered=True)
        if query.limit is None and query.offset is None:
            return found
        empty = Scope(outer)
        limit = "-1" if query.limit is None else known(self.expr(query.limit, empty), types.INT8).sql
        offset = "" if query.offset is None else f" OFFSET {known(self.expr(query.offset, empty), types.INT8).sql}"
        return Relation(found.columns, f"SELECT * FROM ({found.sql}) LIMIT {limit}{offset}", ordered=found.ordered)

    def _output_order(self, item: s.OrderItem, found: Relation) -> str:
        index = shapes.output_index(item.expr, [c.name for c in found.columns])
        if index is None:
            scope = Scope()
            for i, column in enumerate(found.columns):
                scope.add(None, column.name, Typed(f"c{i}", column.type))
            return self.order_item(item, self.expr(item.expr, scope))
        return self.order_item(item, Typed(f"c{index}", found.columns[index].type))

    def _values(self, values: s.Values, outer: Scope | None) -> Relation:
        scope = Scope(outer)
        rows = [[self.expr(e, scope) for e in row] for row in values.rows]
        width = len(rows[0])
        if any(len(row) != width for row in rows):
            raise SqlError("VALUES expression has varying number of columns", "42601")
        columns = [unify([row[i] for row in rows]) for i in range(width)]
        tuples = ",".join("(" + ",".join(columns[i][r].sql for i in range(width)) + ")" for r in range(len(rows)))
        names = ", ".join(f"column{i + 1} AS c{i}" for i in range(width))
        return Relation(
            tuple(Column(f"column{i + 1}", columns[i][0].type) for i in range(width)),
            f"SELECT {names} FROM (VALUES {tuples})",
        )

    def _set_operation(self, node: s.SetOperation, outer: Scope | None) -> Relation:
        left, right = self.relation(node.left, outer), self.relation(node.right, outer)
        if len(left.columns) != len(right.columns):
            raise SqlError(f"each {node.op.upper()} query must have the same number of columns", "42601")
        if node.all and node.op != "union":
            raise SqlError.unsupported(f"{node.op.upper()} ALL")
        pairs = [
            unify([Typed(f"c{i}", a.type), Typed(f"c{i}", b.type)])
            for i, (a, b) in enumerate(zip(left.columns, right.columns, strict=True))
        ]
        sides = []
        for which, side in ((0, left), (1, right)):
            columns = ", ".join(f"{pair[which].sql} AS c{i}" for i, pair in enumerate(pairs))
            sides.append(f"SELECT {columns} FROM ({side.sql})")
        op = node.op.upper() + (" ALL" if node.all else "")
        columns_ = tuple(Column(c.name, pair[0].type) for c, pair in zip(left.columns, pairs, strict=True))
        return Relation(columns_, f" {op} ".join(sides))

    def _core(self, core: s.Core, order: tuple[s.OrderItem, ...], outer: Scope | None) -> Relation:
        source = self._from(core.source, outer)
        impure = self.facts.impure
        where = None if core.where is None else self.boolean(core.where, source.scope, "WHERE")
        items = self._items(core, source.scope)
        group = [self._group_key(g, items, source.scope) for g in core.group]
        aggregated = bool(group) or core.having is not None or shapes.has_aggregate([i.expr for i in core.items])
        columns = tuple(Column(name, expr.type) for name, expr, _ in items)
        conditions = source.where + ([where.sql] if where is not None else [])
        sql = f"SELECT {'DISTINCT ' if core.distinct else ''}"
        sql += ", ".join(f"{expr.sql} AS c{i}" for i, (_, expr, _) in enumerate(items)) or "NULL AS c0"
        sql += f" FROM {source.sql}" if source.sql else ""
        sql += f" WHERE {' AND '.join(conditions)}" if conditions else ""
        if group:
            sql += " GROUP BY " + ", ".join(g.sql for g in group)
        if core.having is not None:
            having = self.boolean(core.having, source.scope, "HAVING").sql
            sql += f"{'' if group else ' GROUP BY NULL'} HAVING {having}"
        relation = Relation(columns, sql)
        if core.distinct_on:
            return self._distinct_on(core, order, source, items, conditions)
        shape = shapes.Shape(core, source.linear, source.relation, where, items, group, order)
        if not aggregated and not core.distinct and self.facts.impure == impure and not order:
            relation = replace(relation, linear=shapes.linear(shape))
        relation = replace(relation, grouped=shapes.grouped(shape) or shapes.picked_groups(shape))
        return self._ordered(relation, order, source.scope, items)

    def _ordered(
        self, relation: Relation, order: tuple[s.OrderItem, ...], scope: Scope, items: list[shapes.Output]
    ) -> Relation:
        names = [name for name, _, _ in items]
        if not order or all(shapes.output_index(item.expr, names) is not None for item in order):
            return relation
        terms = []
        for item in order:
            index = shapes.output_index(item.expr, names)
            expr = items[index][1] if index is not None else self.expr(item.expr, scope)
            terms.append(self.order_item(item, expr))
        return replace(relation, sql=f"{relation.sql} ORDER BY {', '.join(terms)}", ordered=True, grouped=None)

    def _distinct_on(
        self,
        core: s.Core,
        order: tuple[s.OrderItem, ...],
        source: From,
        items: list[shapes.Output],
        conditions: list[str],
    ) -> Relation:
        keys = ", ".join(self.expr(e, source.scope).sql for e in core.distinct_on)
        terms = ", ".join(self.order_item(i, self.expr(i.expr, source.scope)) for i in order)
        over = f"PARTITION BY {keys}" + (f" ORDER BY {terms}" if terms else "")
        outputs = ", ".join(f"{expr.sql} AS c{i}" for i, (_, expr, _) in enumerate(items))
        inner = f"SELECT {outputs}, row_number() OVER ({over}) AS nth FROM {source.sql}"
        inner += f" WHERE {' AND '.join(conditions)}" if conditions else ""
        picked = ", ".join(f"c{i}" for i in range(len(items)))
        self.facts.impure += 1
        columns = tuple(Column(name, expr.type) for name, expr, _ in items)
        return Relation(columns, f"SELECT {picked} FROM ({inner}) WHERE nth=1", ordered=bool(order))

    def _items(self, core: s.Core, scope: Scope) -> list[shapes.Output]:
        found: list[shapes.Output] = []
        for item in core.items:
            if isinstance(item.expr, s.Star):
                found += [(name, expr, None) for name, expr in scope.star(item.expr.qualifier)]
                continue
            expr = known(self.expr(item.expr, scope))
            found.append((item.alias or self._name_of(item.expr), expr, item.expr))
        return found

    def _name_of(self, node: s.Expr) -> str:
        if isinstance(node, s.Column):
            return node.parts[-1]
        if isinstance(node, s.Call):
            return "?column?" if node.name in ("mz_like", "mz_ilike", "mz_index") else node.name
        if isinstance(node, s.Cast):
            return self._name_of(node.operand)
        if isinstance(node, s.Subquery) and isinstance(node.query.body, s.Core):
            first = node.query.body.items[0]
            return first.alias or self._name_of(first.expr)
        return {s.Case: "case", s.Exists: "exists"}.get(type(node), "?column?")

    def _group_key(self, node: s.Expr, items: list[shapes.Output], scope: Scope) -> Typed:
        index = shapes.output_index(node, [name for name, _, _ in items])
        if isinstance(node, s.Literal) and index is not None:
            return items[index][1]
        if isinstance(node, s.Column) and index is not None:
            try:
                return self.expr(node, scope)
            except SqlError:
                return items[index][1]
        return self.expr(node, scope)

    def _from(self, node: s.Source | None, outer: Scope | None) -> From:
        if node is None:
            return From("", Scope(outer), [])
        if isinstance(node, s.Join):
            return self._join(node, outer)
        relation, alias = self._source_relation(node, outer)
        names = [c.name for c in relation.columns]
        columns = getattr(node, "columns", ())
        names[: len(columns)] = columns
        linear = relation.linear
        if linear is not None and sum(len(e.sql) for e in linear.exprs) < _INLINE_MAX:
            scope = Scope(outer)
            for name, expr in zip(names, linear.exprs, strict=True):
                scope.add(alias, name, expr)
            return From(shapes.table_sql(linear), scope, shapes.conditions(linear), linear)
        inner = self.alias()
        scope = Scope(outer)
        for i, (name, column) in enumerate(zip(names, relation.columns, strict=True)):
            scope.add(alias, name, Typed(f"{inner}.c{i}", column.type))
        self._note_groups(relation)
        return From(f"({relation.sql}) AS {inner}", scope, [], None, relation)

    def _note_groups(self, relation: Relation) -> None:
        if relation.grouped is not None and relation.grouped.kept is not None:
            self.facts.groups[relation.sql] = relation.grouped

    def _source_relation(self, node: s.Source, outer: Scope | None) -> tuple[Relation, str | None]:
        if isinstance(node, s.Derived):
            return self.relation(node.query, outer), node.alias
        if isinstance(node, s.Function):
            return self._table_function(node, outer), node.alias or node.call.name
        assert isinstance(node, s.Table)
        return self._named(node), node.alias or node.parts[-1]

    def _join(self, node: s.Join, outer: Scope | None) -> From:
        left, right = self._side(node.left, outer), self._side(node.right, outer)
        scope = Scope(outer)
        scope.entries = left.scope.entries + right.scope.entries
        shift = len(left.scope.entries)
        scope.merged = left.scope.merged | {m + shift for m in right.scope.merged}
        conditions = []
        for name in node.using:
            a, b = left.scope.lookup((name,)), right.scope.lookup((name,))
            conditions.append(operators.compare("=", a, b).sql)
            scope.merged.add(shift + [n for _, n, _ in right.scope.entries].index(name))
        if node.on is not None:
            conditions.append(self.boolean(node.on, scope, "ON").sql)
        word = {"inner": "JOIN", "cross": "CROSS JOIN"}.get(node.kind, f"{node.kind.upper()} JOIN")
        on = f" ON {' AND '.join(conditions)}" if conditions else ""
        return From(f"{left.sql} {word} {right.sql}{on}", scope, [])

    def _side(self, node: s.Source, outer: Scope | None) -> From:
        if isinstance(node, s.Join):
            return self._join(node, outer)
        relation, alias = self._source_relation(node, outer)
        self._note_groups(relation)
        inner = self.alias()
        scope = Scope(outer)
        names = [c.name for c in relation.columns]
        columns = getattr(node, "columns", ())
        names[: len(columns)] = columns
        for i, (name, column) in enumerate(zip(names, relation.columns, strict=True)):
            scope.add(alias, name, Typed(f"{inner}.c{i}", column.type))
        return From(f"({relation.sql}) AS {inner}", scope, [])

    def _table_function(self, node: s.Function, outer: Scope | None) -> Relation:
        args = [known(self.expr(a, Scope(outer)), types.INT8) for a in node.call.args]
        if node.call.name != "generate_series" or len(args) not in (2, 3):
            raise functions.no_function(node.call.name, args)
        start, stop = args[0].sql, args[1].sql
        step = args[2].sql if len(args) == 3 else "1"
        within = f"(CASE WHEN {step}>0 THEN {{0}}<={stop} ELSE {{0}}>={stop} END)"
        sql = (
            f"WITH RECURSIVE g(c0) AS (SELECT {start} WHERE {within.format(start)} UNION ALL "
            f"SELECT c0+{step} FROM g WHERE {within.format(f'c0+{step}')}) SELECT c0 FROM g"
        )
        return Relation((Column(node.alias or "generate_series", args[0].type),), sql)

    def _named(self, node: s.Table) -> Relation:
        if len(node.parts) == 1 and node.parts[0] in self.ctes:
            columns, query = self.ctes[node.parts[0]]
            kept = self.ctes
            self.ctes = {k: v for k, v in kept.items() if k != node.parts[0]}
            found = self.relation(query, None)
            self.ctes = kept
            return replace(found, columns=_renamed(found.columns, columns))
        item = self._resolve(node.parts)
        if item is None:
            system = self.names.system_relation(node.parts)
            if system is None:
                raise SqlError(f"unknown catalog item '{'.'.join(node.parts)}'")
            self.facts.catalog = True
            return system
        return self._base_table(item) if item.kind == "table" else self._view(item)

    def _resolve(self, parts: tuple[str, ...]) -> Item | None:
        catalog = self.names.catalog
        if self.view_refs is not None:
            ref = self.view_refs.get(".".join(parts))
            return catalog.items[ref] if ref is not None else None
        system = len(parts) > 1 and parts[-2] in ("mz_catalog", "mz_internal", "pg_catalog", "information_schema")
        item = None if system else catalog.resolve(parts, self.names.search_path)
        if item is None:
            return None
        if item.kind == "index":
            raise SqlError(f"{item.full_name} is an index and cannot be depended upon")
        self.facts.reads.append(item)
        self.facts.refs[".".join(parts)] = item.id
        self.facts.tables |= catalog.tables_of(item)
        inputs = catalog.storage_inputs(item, self.names.cluster)
        self.facts.inputs += [i for i in inputs if i not in self.facts.inputs]
        return item

    def _base_table(self, item: Item) -> Relation:
        alias = self.alias()
        columns = tuple(Column(name, types.named(kind)) for name, kind in item.columns)
        exprs = tuple(Typed(f"{alias}.c{i}", column.type) for i, column in enumerate(columns))
        return shapes.linear_relation(columns, Linear(item, alias, exprs, ()))

    def _view(self, item: Item) -> Relation:
        kept = self.view_refs, self.ctes
        self.view_refs, self.ctes = item.refs, {}
        try:
            found = self.relation(Parser(item.query).query(), None)
        finally:
            self.view_refs, self.ctes = kept
        grouped = found.grouped
        if grouped is not None and (item.stored or self.names.catalog.indexes(item, self.names.cluster)):
            sums = tuple(o.of for o in grouped.outputs if o.kind == "sum" and o.of is not None)
            grouped = replace(grouped, kept=Kept(item, tuple(dict.fromkeys(sums))))
        names = tuple(name for name, _ in item.columns)
        return replace(found, columns=_renamed(found.columns, names), grouped=grouped)


def _renamed(columns: tuple[Column, ...], names: tuple[str, ...]) -> tuple[Column, ...]:
    names = names + tuple(c.name for c in columns[len(names) :])
    return tuple(dataclasses.replace(c, name=n) for c, n in zip(columns, names, strict=True))


def assigned(plan: Plan, targets: list[types.Type]) -> str:
    """The engine SQL of a query whose columns are cast to those of a table."""
    if len(plan.columns) > len(targets):
        raise SqlError("INSERT has more expressions than target columns", "42601")
    exprs = [
        cast(Typed(f"c{i}", column.type), target)
        for i, (column, target) in enumerate(zip(plan.columns, targets, strict=False))
    ]
    return f"SELECT {', '.join(f'{e.sql} AS c{i}' for i, e in enumerate(exprs))} FROM ({plan.relation.sql})"

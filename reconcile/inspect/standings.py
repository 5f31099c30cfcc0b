"""Read what Redis holds about views, with the shards of each view taken together."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from reconcile.compare.audits import remembered
from reconcile.core.division import summed
from reconcile.core.shards import Shard, shards_of
from reconcile.target.names import Names
from reconcile.target.survey import Standing, Survey


class Whole(Struct, frozen=True):
    """One view. standing: the view as a whole. shards: each shard; empty if the view is not cut."""

    standing: Standing
    shards: list[tuple[Shard, Standing]]


def standings(survey: Survey, views: Sequence[Names]) -> list[Whole]:
    """Read what is stored about each view, in two round trips per node. Raises StateError."""
    divisions = [shards_of(n) for n in survey.divisions(views)]
    named = [replace(names, shard=shard) for names, shards in zip(views, divisions, strict=True) for shard in shards]
    found = iter(survey.standings(named))
    return [_whole([(shard, next(found)) for shard in shards]) for shards in divisions]


def _whole(shards: list[tuple[Shard, Standing]]) -> Whole:
    each = [standing for _, standing in shards]
    if len(each) == 1:
        return Whole(each[0], [])
    together = Standing(
        state=summed([standing.state for standing in each]),
        holder=next((standing.holder for standing in each if standing.holder is not None), None),
        audit=min((standing.audit for standing in each), key=_audited_ms),
        error=next((standing.error for standing in each if standing.error is not None), None),
    )
    return Whole(together, shards)


def _audited_ms(fields: dict[str, str]) -> int:
    audits = remembered(fields)
    return audits[0].at_ms if audits else 0

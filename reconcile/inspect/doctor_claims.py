"""Doctor's checks of all claims in a database, whatever configuration they come from."""

from __future__ import annotations

from collections.abc import Mapping

from reconcile.core.ownership import Range, contradiction, drop_command
from reconcile.inspect.claims import ClaimTable
from reconcile.inspect.findings import Findings
from reconcile.inspect.standings import standings
from reconcile.target.names import Names
from reconcile.target.survey import Survey

MAX_LISTED = 10


def check_claims(
    survey: Survey, names: Mapping[str, Names], ranges: Mapping[str, Range], findings: Findings, *, quick: bool
) -> None:
    """Check claims against each other, the states, and the views configured here (name → names, range).

    quick: skip the scan of all names that finds states.
    """
    with findings.looking("claims"):
        stored = survey.claims()
        if stored is None:
            findings.fail(
                "claims", "no permission to read the claims: runs end with exit code 2", "ACL SETUSER … ~reconcile:*"
            )
            return
        claims = ClaimTable.parse(stored)
        before = len(findings.found)
        states = None if quick else survey.states()
        tags = {one.tag for one in names.values()}
        idle = claims.orphaned(states, tags) if states is not None else []
        _check_overlaps(claims, tags, idle, findings)
        views = {one.tag: view for view, one in names.items()}
        _check_configured(claims, names, ranges, findings)
        if states is not None:
            _check_states(claims, states, idle, views, findings)
        if len(findings.found) == before:
            findings.ok("claims", f"{len(claims.ranges):,} in this database, no two overlap")


def _check_overlaps(claims: ClaimTable, tags: set[str], idle: list[str], findings: Findings) -> None:
    for pair in claims.overlapping()[:MAX_LISTED]:
        # Propose dropping the one that seems unused: an orphan, or a view of another configuration.
        goes, stays = sorted(pair, key=lambda tag: (tag not in idle, tag in tags, tag))
        findings.fail(
            "claims",
            f"views {stays} and {goes} claim the same keys: {stays} has {claims.ranges[stays]}, {goes} has "
            f"{claims.ranges[goes]}" + (" (orphaned: it has no state)" if goes in idle else ""),
            f"{drop_command(goes, stays)}\n"
            f"# if it is no longer used; until then runs of {stays} may end with exit code 5",
        )
    for tag in claims.unreadable[:MAX_LISTED]:
        findings.warn(
            "claims",
            f"the claim of {tag} is not one that reconcile wrote",
            f"HDEL reconcile:{{claims}} {tag}\n# the next run of {tag} writes a new one",
        )


def _check_configured(
    claims: ClaimTable, names: Mapping[str, Names], ranges: Mapping[str, Range], findings: Findings
) -> None:
    tags = {one.tag for one in names.values()}
    overlapping = {tag for pair in claims.overlapping() for tag in pair}
    for view, owned in ranges.items():
        tag = names[view].tag
        others = {other: theirs for other, theirs in claims.ranges.items() if other == tag or other not in tags}
        found = None if tag in overlapping else contradiction(tag, owned, others)
        if found is not None:
            findings.fail("claims", f"{found.message}: its runs end with exit code 5", found.hint)


def _check_states(
    claims: ClaimTable, states: set[str], idle: list[str], views: Mapping[str, str], findings: Findings
) -> None:
    """views: tag → view of this configuration."""
    overlapping = {tag for pair in claims.overlapping() for tag in pair}
    for tag in [tag for tag in idle if tag not in overlapping][:MAX_LISTED]:
        findings.warn(
            "claims",
            f"the claim of {tag} on {claims.ranges[tag]} is orphaned: it has no state, and no view of this "
            "configuration has it; no other view can claim these keys",
            drop_command(tag, next(iter(views), tag)),
        )
    unclaimed = [tag for tag in sorted(states) if tag not in claims.ranges and tag not in claims.unreadable]
    for tag in unclaimed[:MAX_LISTED]:
        findings.warn(
            "claims",
            f"view {tag} has a state but no claim (reconcile:{{claims}} was lost, or evicted)",
            f"reconcile run --view {views[tag]}\n# this also restores the claims of all other states"
            if tag in views
            else "# the next run with the configuration that has this view writes its claim again",
        )


def check_shards(survey: Survey, names: Mapping[str, Names], findings: Findings) -> None:
    """Report shards that have never completed a run. names: by view."""
    for view, whole in zip(names, standings(survey, list(names.values())), strict=True):
        for shard, standing in whole.shards:
            if standing.error is None and (standing.state is None or standing.state.as_of is None):
                findings.warn(
                    "shards",
                    f"shard {shard} of {view} has never completed a run: not all of its keys are in Redis",
                    f"reconcile run --view {view} --shard {shard}\n# and let the schedule start all {shard.n} shards",
                )

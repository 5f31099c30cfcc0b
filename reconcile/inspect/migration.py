"""Convert a configuration of mz-redis-sync, and list what will be different. Connects to nothing."""

from __future__ import annotations

from reconcile.config.settings import Settings, ViewSettings
from reconcile.inspect.proposal import materialize_lines, redis_lines
from reconcile.inspect.yaml_text import scalar


def render(settings: Settings, path: str) -> str:
    """Return the new configuration as YAML; comments list the differences."""
    lines = [f"# Converted from {path} (which reconcile also reads as it is). What differs from mz-redis-sync:", "#"]
    lines += [f"# {line}" if line else "#" for line in _changes(settings)]
    lines += ["", *materialize_lines(settings.materialize), "", *redis_lines(settings.redis, given=True), "", "views:"]
    for view in settings.views:
        lines += _view_lines(view)
    lines += ["", "logging:", f"  level: {settings.logging.level}"]
    lines += [f"  {name}: {scalar(value)}" for name in ("format", "file") if (value := getattr(settings.logging, name))]
    return "\n".join(lines)


def _changes(settings: Settings) -> list[str]:
    lines = [
        "* No daemon: cron, a Kubernetes CronJob or a function starts `reconcile run` every minute. Stop mz-redis-sync",
        "  first: two writers undo each other's work.",
        "* A restart does not start over: the time Redis equals is stored beside the data, in reconcile:{…}:state.",
        "* Keys that leave the view leave Redis too, even if nothing was running at the time.",
    ]
    if any(view.key_prefix for view in settings.views):
        prefixes = ", ".join(f"{view.key_prefix}*" for view in settings.views if view.key_prefix)
        lines += [
            f"* First contact: the keys {prefixes} that the view has are taken over. Keys there that it does not have",
            "  (left over from mz-redis-sync, or another program's) are left alone and named, and the run ends with",
            "  exit code 5 until you consent to their deletion:",
            "    reconcile snapshot --dry-run              # what would be written and deleted",
            "    reconcile snapshot --allow-deletes        # consent, once",
        ]
    bare = [view for view in settings.views if not view.key_prefix] if not settings.redis.dedicated else []
    if bare:
        lines += [
            "* There is no key_prefix, so reconcile has to remember each key it writes (in Redis' memory).",
            "  Keys left by mz-redis-sync that the view no longer has look like any other keys, and stay.",
        ]
    if theirs := [view.mz_timestamp_key for view in bare if view.mz_timestamp_key]:
        lines += [
            f"* First contact: if {', '.join(theirs)} is there, mz-redis-sync wrote the keys of the view that exist",
            "  already. They are taken over; the run reports how many had other content, and names some.",
        ]
    if len(theirs) < len(bare):
        lines += [
            "* First contact without mz_timestamp_key stops with exit code 5 at keys of the view that exist already",
            "  with other content; they are taken over with:",
            "    reconcile snapshot --adopt",
        ]
    kept = [view.mz_timestamp_key for view in settings.views if view.mz_timestamp_key]
    if kept:
        lines.append(f"* {', '.join(kept)} is kept up to date with each commit, for programs that read it.")
    if settings.materialize.password is not None or settings.redis.password is not None:
        lines.append("* Passwords are not copied: set them in the environment or in files, as the comments below say.")
    return lines


def _view_lines(view: ViewSettings) -> list[str]:
    lines = [f"  - name: {scalar(view.name)}", f"    sql: {scalar(view.sql)}"]
    if view.key_prefix:
        lines.append(f"    key_prefix: {scalar(view.key_prefix)}")
    if view.mz_timestamp_key:
        lines.append(f"    mz_timestamp_key: {scalar(view.mz_timestamp_key)}")
    lines.append(f"    # makes runs cheap where history is short: reconcile init --companion --view {view.name}")
    lines.append("    # companion: …")
    return lines

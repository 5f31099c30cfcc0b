"""From a configuration of mz-redis-sync to one of reconcile, and what will be different. Connects to nothing."""

from __future__ import annotations

from reconcile.config.settings import Settings, ViewSettings
from reconcile.inspect.proposal import materialize_lines, redis_lines
from reconcile.inspect.yaml_text import scalar


def render(settings: Settings, path: str) -> str:
    """The new configuration as YAML; what changes is told in its comments."""
    lines = [f"# Made from {path}, which reconcile reads unchanged too. What is different from mz-redis-sync:", "#"]
    lines += [f"# {line}" if line else "#" for line in _changes(settings)]
    lines += ["", *materialize_lines(settings.materialize), "", *redis_lines(settings.redis, given=True), "", "views:"]
    for view in settings.views:
        lines += _view_lines(view)
    lines += ["", "logging:", f"  level: {settings.logging.level}"]
    lines += [f"  {name}: {scalar(value)}" for name in ("format", "file") if (value := getattr(settings.logging, name))]
    return "\n".join(lines)


def _changes(settings: Settings) -> list[str]:
    lines = [
        "* Runs end: cron, a Kubernetes CronJob or a function starts `reconcile run` every minute. Stop mz-redis-sync",
        "  first: two writers undo each other's work.",
        "* A restart does not begin anew: the time Redis is equal to is kept beside the data, as reconcile:{…}:state.",
        "* Keys that leave the view leave Redis too, also those that left it while nothing ran.",
    ]
    if any(view.key_prefix for view in settings.views):
        prefixes = ", ".join(f"{view.key_prefix}*" for view in settings.views if view.key_prefix)
        lines += [
            f"* First contact: the keys {prefixes} that the view has are taken over. Keys there that it does not have",
            "  (what mz-redis-sync never removed, or somebody else's) are left alone and named, and the run ends with",
            "  exit code 5 until somebody consents to their deletion:",
            "    reconcile snapshot --dry-run              # what would be written and deleted",
            "    reconcile snapshot --allow-deletes        # consent, once",
        ]
    if any(not view.key_prefix for view in settings.views) and not settings.redis.dedicated:
        lines += [
            "* There is no key_prefix, so reconcile has to remember each key it writes (memory in Redis). First",
            "  contact stops with exit code 5 at keys of the view that exist already; they are taken over with:",
            "    reconcile snapshot --adopt",
            "  Keys that mz-redis-sync left and the view no longer has cannot be told from others': they stay.",
        ]
    kept = [view.mz_timestamp_key for view in settings.views if view.mz_timestamp_key]
    if kept:
        lines.append(f"* {', '.join(kept)} is kept up to date for programs that read it, with each commit.")
    if settings.materialize.password is not None or settings.redis.password is not None:
        lines.append("* Passwords are not copied: give them in the environment or in files, as the comments below say.")
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

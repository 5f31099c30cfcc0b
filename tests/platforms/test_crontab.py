"""cron/crontab is what cron reads and does what its comments say."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cronsim import CronSim

from tests.platforms import shipped

VARIABLES, LINES = shipped.crontab()


def test_there_is_a_run_every_minute_and_an_audit_every_night() -> None:
    """A run each minute; a deep verify once a day."""
    schedules = {line.arguments[:2]: line.schedule for line in LINES}
    assert schedules["run", "-q"] == "* * * * *"
    nightly = CronSim(schedules["verify", "--deep"], datetime(2026, 1, 1, tzinfo=UTC))
    assert (next(nightly) - next(nightly)).total_seconds() == -86_400


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line.arguments[:2]))
def test_each_line_ends_in_time_and_in_silence(line: shipped.CronLine) -> None:
    """--max-runtime, then the grace, fit inside timeout; -q keeps cron from sending mail about success."""
    next(CronSim(line.schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    command, option, kill_after, limit = line.timeout
    assert (command, option) == ("timeout", "-k")
    assert shipped.max_runtime_s(line.arguments) + shipped.RUN_GRACE_S < shipped.seconds(limit)
    assert shipped.seconds(kill_after) >= shipped.RUN_GRACE_S
    assert "-q" in line.arguments


def test_verify_is_over_before_the_next_one() -> None:
    """Audits take no lease, so nothing but their own limit keeps them from piling up."""
    for line in LINES:
        if line.arguments[0] == "verify":
            ticks = CronSim(line.schedule, datetime(2026, 1, 1, tzinfo=UTC))
            period_s = -(next(ticks) - next(ticks)).total_seconds()
            assert shipped.seconds(line.timeout[3]) < period_s


def test_no_percent_sign_no_secret_and_no_variable_cron_would_not_expand() -> None:
    """cron ends a command at %, and does not expand variables in assignments; secrets are files."""
    text = (shipped.CRON / "crontab").read_text()
    active = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [line for line in active if "%" in line or "$" in line]
    assert not [line for line in active if "://" in line or "password" in line.lower()]
    assert {"MATERIALIZE_URL_FILE", "REDIS_URL_FILE", "RECONCILE_CONFIG", "PATH", "MAILTO"} <= set(VARIABLES)
    assert text.endswith("\n"), "cron ignores a last line without a newline"

"""What doctor says of settings alone, and how findings are put into words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconcile.config.settings import RedisSettings, Secret
from reconcile.errors import ExitCode, Unavailable
from reconcile.inspect.doctor_redis import check_encryption
from reconcile.inspect.findings import Findings, render
from reconcile.texts import plural

WORD = Secret("x")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (RedisSettings(host="cache.example", password=WORD), "not encrypted"),
        (RedisSettings(host="cache.example"), ""),
        (RedisSettings(host="localhost", password=WORD), ""),
        (RedisSettings(host="127.0.0.2", password=WORD), ""),
        (RedisSettings(unix_socket_path="/run/redis", host="cache.example", password=WORD), ""),
        (RedisSettings(host="cache.example", password=WORD, tls=True), ""),
        (RedisSettings(host="cache.example", tls=True, tls_verify="ca"), "any other name"),
        (RedisSettings(host="localhost", tls=True, tls_verify="none"), "any server's"),
    ],
)
def test_who_could_have_the_password(settings: RedisSettings, told: str) -> None:
    """A password in clear text across a network, or a certificate that nobody checks."""
    findings = Findings()
    check_encryption(settings, findings)
    assert told in "".join(one.message for one in findings.found)
    assert bool(findings.found) == bool(told)


def test_the_worst_finding_is_the_exit_code() -> None:
    """Warnings end with 0, a server that is away with 6."""
    findings = Findings()
    findings.warn("a", "odd", "mend")
    assert findings.exit_code == ExitCode.OK
    with findings.checking("b"):
        raise Unavailable("away", hint="start it")
    assert findings.exit_code == ExitCode.UNAVAILABLE
    assert render(findings, quiet=True).splitlines() == [
        "warn  a: odd",
        "        mend",
        "fail  b: away",
        "        start it",
    ]


def test_numbers_in_words() -> None:
    """One key, several keys."""
    assert (plural(1, "key"), plural(2000, "key"), plural(2, "primary", "primaries")) == (
        "1 key",
        "2,000 keys",
        "2 primaries",
    )


def test_every_check_is_in_the_manual() -> None:
    """docs/operations.md has a table of what doctor looks at; nothing else, and nothing less."""
    root = Path(__file__).parents[2]
    code = "".join(path.read_text() for path in (root / "reconcile" / "inspect").glob("doctor*.py"))
    checks = set(re.findall(r'\.(?:ok|warn|fail|checking|looking)\(\s*"([a-z -]+)"', code))
    table = re.findall(r"^\| ([a-z, -]+) \| ", (root / "docs" / "operations.md").read_text(), re.MULTILINE)
    documented = {name.strip() for row in table for name in row.split(",")}
    assert checks <= documented
    assert len(checks) > 15

"""What a companion view's own definition says, read from a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from reconcile.config import address
from reconcile.core.keys import KeyShape
from reconcile.errors import UsageError
from reconcile.source import query
from reconcile.source import session as sessions
from reconcile.source.columns import map_columns
from reconcile.source.companion import describe_companion
from reconcile.source.query import Mapping, companion_ddl
from reconcile.source.session import Session
from reconcile.stop import Stop
from tests.support.command import Command
from tests.support.sources import Source

SALT = "00c0ffee" * 4


@pytest.fixture
def session(source: Source) -> Iterator[Session]:
    """A session on the source."""
    opened = sessions.connect(address.materialize(source.url), Stop())
    with contextlib.closing(opened):
        yield opened


def mapped(session: Session, sql: str, prefix: str = "p:") -> Mapping:
    return map_columns(sql, session.columns(query.describe(sql)), KeyShape(prefix, ("key",), ("",)), view="v")


def create(source: Source, mapping: Mapping, buckets: int, salt: str) -> str:
    """The companion view of a mapping, as its DDL makes it."""
    name = f"{source.schema}.companion"
    source.execute(f"DROP VIEW IF EXISTS {name}")
    for statement in companion_ddl(mapping, name, buckets, salt).strip().split(";\n"):
        source.execute(statement.removesuffix(";"))
    return name


def test_the_definition_is_the_authority_for_salt_and_buckets(source: Source, session: Session) -> None:
    """Also of an empty view, of which the highest bucket says nothing."""
    mapping = mapped(session, source.sql)
    name = create(source, mapping, 64, SALT)
    found = describe_companion(session, name)
    assert (found.name, found.buckets, found.salt) == (name, 64, SALT)
    assert found.proved(session, mapping)
    assert describe_companion(session, name) == found


def test_a_companion_of_another_query_is_not_proved(source: Source, session: Session) -> None:
    """Though it is empty, as the view is, so that every fingerprint is equal."""
    other = mapped(session, f"SELECT key, value FROM {source.relation} WHERE value <> 'secret'")
    name = create(source, other, 64, SALT)
    mapping = mapped(session, source.sql)
    found = describe_companion(session, name)
    assert found.proved(session, other)
    assert not found.proved(session, mapping)
    assert not found.proved(session, mapped(session, source.sql, prefix="q:"))


def test_a_companion_that_is_replaced_has_another_identity(source: Source, session: Session) -> None:
    """With an index or without, with the same salt or another: each time it has to be looked at again."""
    mapping = mapped(session, source.sql)
    identities = [describe_companion(session, create(source, mapping, 64, SALT)).identity]
    identities.append(describe_companion(session, create(source, mapping, 64, SALT[::-1])).identity)
    identities.append(describe_companion(session, create(source, mapping, 128, SALT)).identity)
    name = f"{source.schema}.companion"
    source.execute(f"DROP VIEW {name}")
    source.execute(f"CREATE VIEW {name} AS {mapping.fingerprints(128, SALT)}")
    identities.append(describe_companion(session, name).identity)
    source.execute(f"DROP VIEW {name}")
    source.execute(f"CREATE VIEW {name} AS {mapping.fingerprints(128, SALT)} HAVING count(*) > 0")
    identities.append(describe_companion(session, name).identity)
    assert len(set(identities)) == 5


def test_the_user_s_own_numbers_are_not_taken_for_ours(source: Source, session: Session) -> None:
    """A remainder, a hash and a text of 32 hexadecimal characters in the query itself."""
    sql = (
        f"SELECT key, '{'f' * 32}' || value AS value FROM {source.relation} "
        f"WHERE crc32(key) % 32::uint4 < 16::uint4 AND seahash('{'e' * 32}' || key) > 5::uint8"
    )
    mapping = mapped(session, sql, prefix="x% 16::uint4:")
    found = describe_companion(session, create(source, mapping, 256, SALT))
    assert (found.buckets, found.salt) == (256, SALT)
    assert found.proved(session, mapping)


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1 AS bucket, 1 AS rows, 1 AS fingerprint", "SELECT crc32(key) % 16::uint4 AS bucket FROM v"],
)
def test_a_view_that_is_no_companion_is_refused(source: Source, session: Session, statement: str) -> None:
    """With what to do about it."""
    source.execute(f"CREATE VIEW other AS {statement}")
    with pytest.raises(UsageError, match="form of this version") as refused:
        describe_companion(session, f"{source.schema}.other")
    assert "init --companion" in str(refused.value.hint)


def test_a_companion_that_does_not_exist_is_a_usage_error(session: Session) -> None:
    """Exit 2, as for the view itself."""
    with pytest.raises(UsageError, match="nosuch"):
        describe_companion(session, "nosuch")


@pytest.mark.parametrize("buckets", [3, 8, 48, 1 << 18])
def test_a_number_of_buckets_that_no_state_can_have_is_refused(source: Source, session: Session, buckets: int) -> None:
    """Powers of two, between the bounds of the state."""
    name = create(source, mapped(session, source.sql), buckets, SALT)
    with pytest.raises(UsageError, match=f"made for {buckets} buckets"):
        describe_companion(session, name)


@pytest.mark.parametrize("name", ["v", "t", "nosuch"])
def test_a_run_goes_on_without_a_companion_that_is_none(command: Command, source: Source, name: str) -> None:
    """A materialized view, a table (XX000 `… is not a view`), nothing at all: fingerprints are computed instead, and
    the note says what of the configuration it is about. So does doctor.
    """
    source.put(a="1")
    view = {"name": "default", "sql": source.sql, "key_prefix": "p", "companion": f"{source.schema}.{name}"}
    command.config["materialize"].pop("sql")
    command.config["redis"].pop("key_prefix")
    command.config["views"] = [view]
    for _ in range(2):
        done = command("run").view
        assert any(f"companion view {source.schema}.{name}: " in note for note in done["warnings"])
    failed = [one for one in command("doctor", expect=2).report["checks"] if one["level"] == "fail"]
    assert [one["check"] for one in failed] == ["companion view"]
    assert "init --companion" in failed[0]["fix"]


def test_a_companion_without_a_plan_is_not_proved(source: Source, session: Session) -> None:
    """Materialize complains of a statement with the SQLSTATE of an internal error; that is no bug of ours."""
    mapping = mapped(session, source.sql)
    definition = describe_companion(session, create(source, mapping, 64, SALT))
    broken = replace(definition, statement="SELECT nosuch(1)")
    assert not broken.proved(session, mapping)
    broken = replace(definition, statement=f"SELECT key FROM {source.relation} WHERE key")
    assert not broken.proved(session, mapping)

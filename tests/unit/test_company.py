"""Whom a server works for, told from its command statistics."""

from __future__ import annotations

import pytest

from reconcile.target.company import Calls, calls, for_others

STRINGS = frozenset(["MSET", "MSETNX"])


def test_subcommands_count_as_their_command_and_our_own_not_at_all() -> None:
    """As Redis prints them."""
    info = (
        b"# Commandstats\r\n"
        b"cmdstat_get:calls=12,usec=30,usec_per_call=2.50,rejected_calls=0,failed_calls=0\r\n"
        b"cmdstat_client|setname:calls=3,usec=1,usec_per_call=1.00\r\n"
        b"cmdstat_client|list:calls=4,usec=1,usec_per_call=1.00\r\n"
        b"cmdstat_json.get:calls=5,usec=1\r\n"
    )
    assert calls([info, info], [{"GET": 2, "EVAL": 1}, {"CLIENT": 1}]) == {"GET": 22, "CLIENT": 13, "JSON.GET": 10}


@pytest.mark.parametrize("info", [b"", b"# Commandstats\r\n", RuntimeError("refused"), None])
def test_a_server_that_does_not_tell(info: object) -> None:
    """Managed services may leave the section out, or refuse INFO."""
    assert calls([b"cmdstat_get:calls=12,usec=30", info], [{}, {}]) is None


LOAD = {"WATCH": 100, "HMGET": 100, "MULTI": 100, "MSETNX": 100, "HSET": 100, "EXEC": 100, "PEXPIRE": 0, "INFO": 3}
SCRIPTS = {"EVAL": 50, "HMGET": 50, "SET": 3_000, "HSET": 50}


@pytest.mark.parametrize(
    ("grown", "ours", "others"),
    [
        pytest.param({}, STRINGS, 0, id="nobody"),
        pytest.param({"GET": 7, "MGET": 2}, STRINGS, 9, id="readers"),
        pytest.param({"INFO": 9, "PING": 9, "CLIENT": 9, "REPLCONF": 9}, STRINGS, 0, id="health checks, replicas"),
        pytest.param(LOAD, STRINGS, 0, id="another load"),
        pytest.param(LOAD | {"HMGET": 130}, STRINGS, 30, id="a load, and a reader of hashes"),
        pytest.param(LOAD | {"HSET": 130}, STRINGS, 30, id="a load, and a writer of hashes"),
        pytest.param(LOAD | {"SET": 5}, STRINGS, 5, id="a load, and a writer of strings"),
        pytest.param({"MULTI": 10, "EXEC": 10, "SET": 10}, STRINGS, 10, id="another program's transactions"),
        pytest.param(SCRIPTS, STRINGS | {"SET"}, 0, id="a load in a cluster"),
        pytest.param(SCRIPTS | {"GET": 4}, STRINGS | {"SET"}, 4, id="a load in a cluster, and a reader"),
        pytest.param({"GET": -1}, STRINGS, None, id="counts were reset"),
    ],
)
def test_whom_a_server_worked_for(grown: Calls, ours: frozenset[str], others: int | None) -> None:
    """Between two looks."""
    before = dict.fromkeys(["GET", "HMGET", "HSET", "EXEC", "EVAL"], 1_000)
    after = {kind: before.get(kind, 0) + grown.get(kind, 0) for kind in before | grown}
    assert for_others(before, after, ours) == others

"""Shards: what may be said, which keys each has, and what the platforms' variables mean."""

from __future__ import annotations

import pytest

from reconcile.core.digest import bucket_of
from reconcile.core.shards import WHOLE, Shard, parse_shard, shard_of, shard_of_platform, shards_of
from reconcile.errors import ExitCode, UsageError

KEYS = [b"p:k%d" % n for n in range(2000)]


@pytest.mark.parametrize("text", ["0/1", "0/2", "3/4", "7/8", "15/16"])
def test_what_is_said_is_what_is_meant(text: str) -> None:
    """i/n, both ways."""
    assert str(parse_shard(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("4/4", "no shard 4 of 4"),
        ("1/3", "cannot be cut into 3"),
        ("0/32", "cannot be cut into 32"),
        ("0/0", "cannot be cut into 0"),
        ("1", "is not a shard"),
        ("-1/4", "is not a shard"),
        ("1/4 ", "is not a shard"),
        ("next", "is not a shard"),
    ],
)
def test_what_is_no_shard(text: str, told: str) -> None:
    """Exit 2, with a hint."""
    with pytest.raises(UsageError, match=told) as caught:
        parse_shard(text)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_every_key_has_one_shard(n: int) -> None:
    """And every bucket, however many there are: a shard's keys lie in its own buckets only."""
    shards = shards_of(n)
    for key in KEYS:
        (owner,) = [shard for shard in shards if shard.owns(key)]
        assert owner == shard_of(key, n)
        assert all(bucket_of(key, buckets) % n == owner.i for buckets in (16, 64, 1024))


@pytest.mark.parametrize("n", [1, 2, 8, 16])
@pytest.mark.parametrize("parts", [1, 8, 64, 256])
def test_parts_of_the_key_space(n: int, parts: int) -> None:
    """Those in which a shard has keys, and no others."""
    for shard in shards_of(n):
        own = {bucket_of(key, parts) for key in KEYS if shard.owns(key)}
        assert own == set(shard.residues(parts))


def test_slices_of_a_shard() -> None:
    """Together they are the shard, and none has a key of another slice."""
    shard = Shard(1, 4)
    slices = [shard.slice(i, 2) for i in range(2)]
    assert slices == [(1, 8), (5, 8)]
    assert WHOLE.slice(3, 16) == (3, 16)
    for key in KEYS:
        found = [(i, n) for i, n in slices if bucket_of(key, n) == i]
        assert len(found) == shard.owns(key)


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({}, None),
        ({"JOB_COMPLETION_INDEX": "2"}, None),
        ({"JOB_COMPLETION_INDEX": "2", "RECONCILE_SHARDS": "4"}, Shard(2, 4)),
        ({"JOB_COMPLETION_INDEX": "0", "RECONCILE_SHARDS": "1"}, WHOLE),
        ({"CLOUD_RUN_TASK_INDEX": "7", "CLOUD_RUN_TASK_COUNT": "8"}, Shard(7, 8)),
        ({"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "1"}, WHOLE),
    ],
)
def test_platforms(environ: dict[str, str], shard: Shard | None) -> None:
    """Both numbers make a shard; an index alone may be about something else."""
    assert shard_of_platform(environ) == shard


@pytest.mark.parametrize(
    "environ",
    [
        {"RECONCILE_SHARDS": "4"},
        {"JOB_COMPLETION_INDEX": "4", "RECONCILE_SHARDS": "4"},
        {"JOB_COMPLETION_INDEX": "0", "RECONCILE_SHARDS": "3"},
        {"JOB_COMPLETION_INDEX": "0", "RECONCILE_SHARDS": "four"},
        {"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "3"},
    ],
)
def test_platforms_that_say_something_else(environ: dict[str, str]) -> None:
    """The variable is named: it stands in a file somewhere."""
    with pytest.raises(UsageError, match=r"RECONCILE_SHARDS|CLOUD_RUN_TASK_COUNT") as caught:
        shard_of_platform(environ)
    assert caught.value.hint

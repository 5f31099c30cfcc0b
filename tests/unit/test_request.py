"""One table says what fits which mode; the command line follows it, and requests hold parsed values."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from reconcile.cli import work
from reconcile.cli.entry import cli
from reconcile.config.load import load
from reconcile.errors import UsageError
from reconcile.runs.request import OPTIONS, Mode, Request, parse

NOW_MS = 1_760_000_000_000
VALUES: dict[str, Any] = {
    "views": ["a"], "follow_s": 5.0, "as_of": "-5m", "if_leased": "wait", "subset": "1/4", "shard": "1/4",
    "max_report": 3,
}  # fmt: skip


def called(field: str) -> str:
    return f"<{field}>"


def test_every_field_of_a_request_has_its_place() -> None:
    """A new field must say which modes it belongs to, and have a flag."""
    fields = set(Request.__struct_fields__) - {"mode"}
    assert fields == OPTIONS.keys()
    assert fields == work.FLAGS.keys() | {"views"}


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_command_has_the_flags_of_its_mode(mode: str) -> None:
    """Neither more nor less."""
    flags = {parameter.name for parameter in cli.commands[mode].params} & OPTIONS.keys()
    assert flags == {field for field, option in OPTIONS.items() if mode in option.modes}


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("field", OPTIONS)
def test_what_does_not_belong_to_a_mode_is_refused(mode: str, field: str) -> None:
    """By the asker's own name for it; what belongs reaches the request."""
    value = VALUES.get(field, True)
    if mode in OPTIONS[field].modes:
        request = parse(mode, {field: value}, NOW_MS, called)
        assert getattr(request, field) != getattr(Request("run"), field)
    else:
        with pytest.raises(UsageError, match=f"<{field}> does not belong to mode '{mode}'"):
            parse(mode, {field: value}, NOW_MS, called)


@pytest.mark.parametrize(
    ("mode", "field", "written", "value"),
    [
        ("snapshot", "as_of", "now", None),
        ("snapshot", "as_of", "-5m", NOW_MS - 300_000),
        ("snapshot", "as_of", "2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("verify", "subset", "next", "next"),
        ("verify", "subset", "0/1", (0, 1)),
        ("verify", "subset", "23/24", (23, 24)),
        ("run", "follow_s", 5, 5.0),
        ("run", "views", ["a", "b-*"], ("a", "b-*")),
        ("run", "views", None, ()),
    ],
)
def test_values_are_parsed(mode: str, field: str, written: object, value: object) -> None:
    """Relative times count from the moment of asking."""
    assert getattr(parse(mode, {field: written}, NOW_MS, called), field) == value


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "/4", "4/4", "5/4", "-1/4", "0/0", "1/4 ", "a/b", "٣/٤", "1/9999999999"]
)
def test_slices_that_are_refused(text: str) -> None:
    """Before anything is connected, and by name."""
    with pytest.raises(UsageError, match=r"<subset>: .* is not a slice"):
        parse("verify", {"subset": text}, NOW_MS, called)


def test_following_and_stopping_exclude_each_other() -> None:
    """In every way of asking."""
    with pytest.raises(UsageError, match="<follow_s> and <until_current> exclude each other"):
        parse("delta", {"follow_s": 1.0, "until_current": True}, NOW_MS, called)


@pytest.mark.parametrize("variable", ["RECONCILE_RUN_ID", "RECONCILE_EVENT_ALLOWS"])
def test_variables_that_are_no_settings_are_known(variable: str) -> None:
    """Read elsewhere than by the configuration, which must not take them for misspelt settings."""
    urls = {
        "REDIS_URL": "redis://r",
        "MATERIALIZE_URL": "postgres://u@m/d",
        "RECONCILE_VIEW__SQL": "SELECT key, value FROM v",
    }
    load(None, {**urls, variable: "adopt"})

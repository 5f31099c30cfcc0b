"""Commands that another distribution brings, and what is said where it is not installed."""

from __future__ import annotations

from importlib import metadata

import click
import pytest
from click.testing import CliRunner

from reconcile.cli.development import COMMANDS, ENTRY_POINTS
from reconcile.cli.entry import cli


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_stand_in_a_command_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its options: exit 2 and the command that installs it."""
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [])
    result = CliRunner().invoke(cli, [name, "--rows", "5"])
    assert result.exit_code == 2
    assert "pip install ./tests/standin" in result.output


def test_what_help_lists_is_what_the_stand_in_brings() -> None:
    """Help reads a fixed list, so that list must be right."""
    brought = {entry.name: entry.load() for entry in metadata.entry_points(group=ENTRY_POINTS)}
    assert brought.keys() == COMMANDS.keys(), "make .venv/.installed"
    assert all(isinstance(command, click.Command) for command in brought.values())
    assert all(f"  {name}  " in CliRunner().invoke(cli, ["--help"]).output for name in COMMANDS)


def test_help_lists_every_command_in_a_whole_sentence() -> None:
    """Click cuts what does not fit a line of 80 characters."""
    for arguments in (["--help"], ["config", "--help"]):
        assert "...\n" not in CliRunner().invoke(cli, arguments).output.partition("Commands:")[2]


def test_a_command_of_the_stand_in_has_help_of_its_own() -> None:
    """It is loaded when it is named."""
    result = CliRunner().invoke(cli, ["demo", "--help"])
    assert result.exit_code == 0
    assert "--redis-server" in result.output

"""Every command line we ship or document is one that `reconcile` understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reconcile.cli.entry import cli
from tests.platforms import kustomize, shipped


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(where, arguments of reconcile) of everything under cron/, functions/ and docs/platforms/."""
    for line in shipped.crontab()[1]:
        yield "crontab", line.arguments
    for name in shipped.units("*.service"):
        words = shipped.unit(name)["Service"]["ExecStart"][0].split()
        if words[0].endswith("/reconcile"):
            yield name, tuple(words[1:])
    for resource in kustomize.build(shipped.CRON / "kubernetes" / "overlays" / "all"):
        if resource["kind"] == "CronJob":
            (container,) = resource["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            yield resource["metadata"]["name"], tuple(container["args"])
    (job,) = shipped.documents(shipped.FUNCTIONS / "google-cloud" / "job.yaml")
    (container,) = job["spec"]["template"]["spec"]["template"]["spec"]["containers"]
    yield "job.yaml", tuple(container["args"])
    (compose,) = shipped.documents(shipped.CRON / "container" / "compose.yaml")
    yield "compose.yaml", tuple(compose["services"]["reconcile"]["command"])
    for path in sorted((shipped.ROOT / "docs" / "platforms").glob("*.md")):
        for arguments in in_page(path):
            yield path.name, arguments


def in_page(path: Path) -> Iterator[tuple[str, ...]]:
    """The `reconcile …` commands of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(
                r"(?:^|[\s/])(?:bin/)?reconcile ((?:run|snapshot|delta|verify|status|doctor|config)\b[^|>#&;]*)", line
            )
            if found:
                yield tuple(shlex.split(found[1].strip().rstrip(")\"'")))


FOUND = sorted(set(commands()))


@pytest.mark.parametrize(("where", "arguments"), FOUND, ids=[f"{where}: {' '.join(words)}" for where, words in FOUND])
def test_reconcile_understands(where: str, arguments: tuple[str, ...]) -> None:
    """Command, options and their values parse; nothing is run."""
    command: click.Command = cli
    words = list(arguments)
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, f"{where}: no command {name}"
        command = command.commands[name]
    command.make_context(command.name, words)


def test_there_is_something_to_check() -> None:
    """Each kind of file contributes."""
    assert {"crontab", "reconcile@.service", "reconcile-run", "job.yaml", "compose.yaml"} <= {
        where for where, _ in FOUND
    }

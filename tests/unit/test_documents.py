"""Documents keep up with the code: links lead somewhere, commands parse, files, tests and functions they name exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from reconcile.cli.entry import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(path for part in ("docs", "tests") for path in (ROOT / part).rglob("*.md")))
    if ".venv" not in path.parts
)
FAULTS = ROOT / "tests" / "faults" / "README.md"
SHOWN = [str(path.relative_to(ROOT)) for path in PAGES]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = (re.sub(r"[^\w\- ]", "", one.lower()) for one in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {heading.replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `reconcile …` in code, of whatever form, as far as it can be typed."""
    names = "|".join(cli.commands)
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^(?: {4}|\$ |[\d*/ ]+ +)?(\S.*)$", text, re.MULTILINE)
    for piece in code:
        for found in re.finditer(rf"(?:^|[\s/])reconcile ((?:{names})\b[^|>#&;`…(]*)", piece):
            line = found[1].strip().rstrip(".,:)")
            if "[" not in line and line.count("'") % 2 == 0 and line.count('"') % 2 == 0:
                yield shlex.split(line)


@cache
def names_of_tests() -> dict[str, set[str]]:
    """Name of a test module, or of several with the same name → its tests."""
    found: dict[str, set[str]] = {}
    for path in ROOT.glob("tests/*/test_*.py"):
        found.setdefault(path.stem, set()).update(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", PAGES, ids=SHOWN)
def test_links_lead_somewhere(path: Path) -> None:
    """Files and headings that a page links to exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        other = path.parent / name if name else path
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=SHOWN)
def test_files_exist(path: Path) -> None:
    """Python modules and files of ours that a page names by their path."""
    named = re.findall(r"`((?:\w+/)+[\w.-]+\.(?:py|yaml|json|md))`", path.read_text(encoding="utf-8"))
    places = (ROOT, ROOT / "reconcile", ROOT / "tests", path.parent)
    made = {"build/bench.json", "deploy/kustomization.yaml"}
    assert [name for name in named if name not in made and not any((one / name).exists() for one in places)] == []


@pytest.mark.parametrize("path", PAGES, ids=SHOWN)
def test_commands_parse(path: Path) -> None:
    """Commands and options that a page shows exist, and take the values shown."""
    for words in commands(path.read_text(encoding="utf-8").replace("\\\n", " ")):
        command: click.Command = cli
        shown, rest = " ".join(words), list(words)
        while isinstance(command, click.Group):
            assert rest, shown
            assert rest[0] in command.commands, shown
            command = command.commands[rest.pop(0)]
        try:
            command.make_context(command.name, rest, resilient_parsing=not rest)
        except click.UsageError as error:
            pytest.fail(f"{shown}: {error.message}")


def test_there_are_commands_to_check() -> None:
    """A pattern that finds nothing would pass for ever."""
    found = [words for path in PAGES for words in commands(path.read_text(encoding="utf-8"))]
    assert {words[0] for words in found} >= {"run", "snapshot", "delta", "verify", "status", "doctor", "init", "drop"}
    assert len(found) > 60


def test_tests_of_faults_exist() -> None:
    """A protection whose test is gone, or was renamed, is no longer known to be tested."""
    missing = []
    for line in FAULTS.read_text(encoding="utf-8").splitlines():
        module = ""
        for name in re.findall(r"test_\w+", line.rpartition(" | ")[2]):
            if name in names_of_tests():
                module = name
                continue
            known = names_of_tests()[module] if module else set().union(*names_of_tests().values())
            if not any(one == name or (name.endswith("_") and one.startswith(name)) for one in known):
                missing.append(f"{module}: {name}")
    assert missing == []


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(\w+/\w+\.\w+)`", FAULTS.read_text()))))
def test_protections_exist(named: str) -> None:
    """A protection named as module.function is still there."""
    module, _, name = named.rpartition(".")
    if name != "py":
        assert re.search(rf"\b{name}\b", (ROOT / "reconcile" / f"{module}.py").read_text(encoding="utf-8"))


QUOTED = {
    "first load": "load", "run, nothing changed, no history": "unchanged", "the same with a companion view":
    "unchanged_companion", "run, 0.1 % updated": "changed", "deep verify": "verify", "delta": "delta",
    "run over 100 unchanged views": "views_unchanged", "cold start": "cold_start",
}  # fmt: skip


@pytest.mark.parametrize(("row", "key"), QUOTED.items())
def test_the_readme_quotes_the_last_measurement(row: str, key: str) -> None:
    """Ratio, seconds and memory of `make bench` with 1M rows, as docs/bench.json has them."""
    (line,) = re.findall(rf"^\| {row}.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    _, work, *cells, _ = (cell.strip() for cell in line.split("|"))
    sizes = json.loads((ROOT / "docs" / "bench.json").read_text())["stand-in"]["sizes"]
    (measured,) = (one for size in sizes if size["rows"] == 1_000_000 for one in size["figures"] if one["key"] == key)
    in_seconds = measured["against"] == "s"
    assert cells[1] == shown(measured["value"] if in_seconds else measured["seconds"])
    assert cells[2] in ("", f"{measured['peak_mb'] or 0:.0f}")
    assert in_seconds or shown(measured["value"]) in (cells[0] or work)


def shown(number: float) -> str:
    """With two digits or so."""
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"

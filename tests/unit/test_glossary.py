"""Names in the code are those of docs/glossary.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"

ORDINARY = {
    *(
        "at",
        "cache",
        "diff",
        "event",
        "index",
        "job",
        "latest",
        "offset",
        "partition",
        "record",
        "shard",
        "table",
        "version",
    ),
    *("mz", "sync"),
}
"""Ordinary words of code, and those of mz_timestamp_key and "in sync": not forbidden everywhere."""


def _rejected() -> set[str]:
    """The words of the column "not" that are identifiers."""
    words: set[str] = set()
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0] not in ("word", "---") and not cells[2].startswith(("crc32", "b mod")):
            words |= {word.strip() for word in cells[2].split(",") if re.fullmatch(r"\s*[A-Za-z_]+\s*", word)}
    return words


@cache
def _names_of(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, name) of everything that is defined: modules, classes, functions, parameters, variables."""

    def names() -> Iterator[tuple[int, str]]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield node.lineno, node.name
            elif isinstance(node, ast.arg):
                yield node.lineno, node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.id

    return tuple(names())


def _modules() -> list[Path]:
    return sorted((ROOT / "reconcile").rglob("*.py"))


def test_the_table_is_read() -> None:
    """A table that is laid out anew would forbid nothing."""
    assert {"src", "dst", "watermark", "checksum", "lock", "bookmark"} <= _rejected()


@pytest.mark.parametrize("word", sorted(_rejected() - ORDINARY))
def test_no_name_in_the_code_is_a_rejected_word(word: str) -> None:
    """Parts of names count: `watermark_ms` is one."""
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in _modules()
        for line, name in _names_of(path)
        if word in name.lower().split("_")
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_the_companion_view_has_one_name(path: Path) -> None:
    """The former one is the old key, `digest_view`, and the glossary says so."""
    text = path.read_text(encoding="utf-8").lower()
    if path != GLOSSARY:
        assert "digest view" not in text

"""The manual and the starter file go by the table of keys."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from reconcile.config import schema
from reconcile.config.load import load
from tests.support import manual


def test_the_manual_lists_exactly_the_keys() -> None:
    """One table a section, as `python -m tests.support.manual` writes it."""
    text = manual.MANUAL.read_text(encoding="utf-8")
    assert sorted(manual.places(text)) == sorted(manual.tables())
    assert manual.written(text) == text, "run: python -m tests.support.manual"


def test_every_key_says_what_it_is() -> None:
    """A name, a field or a place in another, and a type."""
    for section, keys in schema.SECTIONS.items():
        names = [key.name for key in keys]
        assert len(set(names)) == len(names), section
        assert all(key.kind.label for key in keys)


def test_the_starter_file_loads_and_knows_no_other_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with every comment that holds a key taken for one."""
    monkeypatch.chdir(tmp_path)
    text = files("reconcile.config").joinpath("starter.yaml").read_text(encoding="utf-8")
    (tmp_path / "plain.yaml").write_text(text, encoding="utf-8")
    assert [view.name for view in load("plain.yaml", {}).views] == ["default"]
    text = re.sub(r"(?m)^( *)# ?( *[a-z_]+:(?: +\S+)?)(?: +#.*)?$", r"\1\2", text)
    shown = {
        section: set(content[0] if section == "views" else content) for section, content in yaml.safe_load(text).items()
    }
    assert shown["limits"] == {"memory_max", "max_runtime", "lease"}
    for section, names in shown.items():
        assert names <= schema.spellings("view" if section == "views" else section).keys()

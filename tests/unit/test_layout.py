"""The shape of the package: who may import whom, how long things are, what is documented."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "reconcile"
STANDIN = ROOT / "tests" / "standin" / "reconcile_standin"

MAX_MODULE_LINES = 400
MAX_BODY_LINES = 60

LAYERS = {
    "errors": set(),
    "texts": set(),
    "collector": set(),
    "stop": {"errors"},
    "core": {"errors", "texts"},
    "config": {"errors", "texts", "core.times", "core.sql", "core.keys", "core.shards"},
    "logs": {"errors", "texts", "config.settings"},
    "source": {"errors", "stop", "texts", "core", "config.settings"},
    "target": {"errors", "stop", "texts", "core", "config.settings"},
    "report": {"errors", "texts", "core", "config.settings"},
    "compare": {"errors", "stop", "texts", "core", "config.settings", "source", "target", "report"},
    "runs": {"errors", "collector", "stop", "texts", "core", "config", "source", "target", "report", "compare"},
    "inspect": {"errors", "stop", "texts", "core", "config", "source", "target", "report", "compare"},
    "cli": {"errors", "collector", "stop", "logs", "texts", "core", "config", "report", "runs", "inspect"},
    "__main__": {"cli"},
}
"""Room → what it may import of ours, beside itself and the package's version."""
VALUES = "msgspec"
"""How every room declares its values (docs/adr/0019-values-are-structs.md)."""
DRIVER_OF = {"psycopg": "source", "redis": "target", "hiredis": "target"}
"""Package → the only room that may import it."""
PARSER = ("psycopg.conninfo.", "psycopg.errors.")
"""What config.address may take from psycopg: libpq's own parser of URLs, better than a second one. Imported only where
there is a URL to read."""
THIRD_PARTY = {
    "core": {"xxhash"},
    "config": {"yaml", "boto3"},
    "source": {"psycopg"},
    "target": {"redis", "hiredis"},
    "report": {"tqdm"},
    "runs": {"xxhash"},
    "inspect": {"xxhash"},
    "cli": {"click"},
}
"""Room → packages from outside the standard library that it may import, beside VALUES. boto3: Lambda's own."""


def name_of(path: Path) -> str:
    """Dotted name inside the package: core.digest; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(path: Path) -> str:
    """The first part of the name: core, cli, …"""
    return name_of(path).split(".")[0]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


MODULES = sorted(PACKAGE.rglob("*.py"))
STANDIN_MODULES = sorted(STANDIN.rglob("*.py"))
ALL_MODULES = MODULES + STANDIN_MODULES
each_module = pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
every_module = pytest.mark.parametrize("path", ALL_MODULES, ids=ids(ALL_MODULES))
"""The product's, and those of the stand-in too: what makes code readable holds for both."""


def test_every_room_has_its_layer() -> None:
    """A new room must say whom it may import."""
    assert {room_of(path) for path in MODULES} - {""} == LAYERS.keys()


@each_module
def test_imports_point_one_way(path: Path) -> None:
    """errors, stop ← core ← source, target, report ← runs ← cli; source and target never know each other."""
    room = room_of(path)
    allowed = LAYERS.get(room, set()) | {room}
    for line, name in imports(path):
        if not name.startswith("reconcile.") or name == "reconcile.__version__":
            continue
        inside = name.removeprefix("reconcile.")
        assert any(f"{inside}.".startswith(f"{one}.") for one in allowed), f"line {line}: {room} imports {name}"


def test_no_module_needs_itself() -> None:
    """No circle between modules, imports inside functions included: who reads one need not have read the other."""
    needs = {name_of(path): set(_ours(path)) for path in MODULES}
    while leaves := {name for name, needed in needs.items() if not needed & needs.keys()}:
        for name in leaves:
            del needs[name]
    assert not needs, f"these need each other: {sorted(needs)}"


def _ours(path: Path) -> Iterator[str]:
    """Modules of ours that one imports; what is there for types alone is not needed."""
    known = {name_of(one) for one in MODULES}
    for_types = {
        line
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    for line, name in imports(path):
        inside = name.removeprefix("reconcile.")
        if name.startswith("reconcile.") and line not in for_types:
            yield inside if inside in known else inside.rpartition(".")[0]


@each_module
def test_drivers_stay_in_their_room(path: Path) -> None:
    """psycopg only in source/, redis only in target/, and from outside the standard library only what is listed."""
    room = room_of(path)
    for line, name in imports(path):
        package = name.split(".")[0]
        if name.startswith(PARSER) and name_of(path) == "config.address":
            continue
        if package in DRIVER_OF:
            assert room == DRIVER_OF[package], f"line {line}: {name}"
        if package not in ("reconcile", VALUES) and package not in sys.stdlib_module_names:
            assert package in THIRD_PARTY.get(room, set()), f"line {line}: {name}"


@pytest.mark.parametrize("path", STANDIN_MODULES, ids=ids(STANDIN_MODULES))
def test_the_stand_in_knows_nothing_of_the_product(path: Path) -> None:
    """A double that shares code with what it is tested against would share its mistakes."""
    assert [name for _, name in imports(path) if name.split(".")[0] == "reconcile"] == []


CLOCKS_AND_IO = {
    "time",
    "socket",
    "select",
    "threading",
    "subprocess",
    "os",
    "pathlib",
    "random",
    "logging",
    "io",
    "tempfile",
}


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "core"], ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    """Standard library, msgspec, xxhash and the errors; no clock, no I/O, nothing random, no logging."""
    for line, name in imports(path):
        assert name.split(".")[0] not in CLOCKS_AND_IO, f"line {line}: {name}"
    calls = {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}
    assert not {
        call for call in calls if call.endswith((".now", ".utcnow", ".today")) or call in ("open", "print", "input")
    }


@every_module
def test_modules_are_short(path: Path) -> None:
    """At most 400 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@every_module
def test_functions_are_short(path: Path) -> None:
    """At most 60 lines without signature and docstring."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= MAX_BODY_LINES, f"{node.name}: {lines} lines"


@every_module
def test_what_is_public_is_documented(path: Path) -> None:
    """Every module with content, public function and public class says what it is for."""
    tree = parsed(path)
    if tree.body:
        assert ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"line {node.lineno}: {node.name} has no docstring"


@every_module
def test_ignored_types_name_their_reason(path: Path) -> None:
    """`# type: ignore` hides one named error, not all."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not re.search(r"#\s*type:\s*ignore(?!\[[a-z-]+(, ?[a-z-]+)*\])", line), f"line {number}"


@every_module
def test_everything_is_typed_and_synchronous(path: Path) -> None:
    """Every parameter and result has its type; there is no async code."""
    for node in ast.walk(parsed(path)):
        assert not isinstance(node, ast.AsyncFunctionDef)
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [one.arg for one in arguments if one.annotation is None and one.arg not in ("self", "cls")]
            assert not untyped, f"{node.name}: {untyped}"
            assert node.returns is not None or node.name == "__init__", node.name


FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "handler", "process", "data", "common", "misc"}


@every_module
def test_names_say_something(path: Path) -> None:
    """One noun per module, and none that fits anything."""
    assert path.stem not in FORBIDDEN_NAMES


def test_every_test_says_what_it_expects() -> None:
    """One sentence per unit test: what holds, not what is called."""
    for path in sorted((ROOT / "tests" / "unit").glob("test_*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"

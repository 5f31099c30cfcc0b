"""functions/build.py: what is deployed is complete, compiled, reproducible and small."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from functions import build
from tests.platforms import shipped

ZIP_MAX_BYTES = 12_000_000
UNZIPPED_MAX_BYTES = 40_000_000


def names(archive: Path) -> list[str]:
    """The zip's members."""
    with zipfile.ZipFile(archive) as file:
        return file.namelist()


def test_the_zip_holds_the_code_and_only_that(lambda_zip: Path) -> None:
    """Ours, the one adapter, the dependencies; no pip leftovers, no configuration unless asked."""
    found = names(lambda_zip)
    assert {"functions/event.py", "functions/aws_lambda.py", "reconcile/errors.py", "reconcile/runs/entry.py"} <= {
        *found
    }
    assert not [name for name in found if name.startswith("bin/")]
    assert not [name for name in found if re.search(r"functions/(gcp|azure|build)|config\.yaml|RECORD$", name)]
    assert {name.split("/")[0] for name in found} >= {"psycopg", "psycopg_binary", "redis", "hiredis", "xxhash", "yaml"}


def test_every_module_is_compiled_for_the_target_without_checking_times(lambda_zip: Path) -> None:
    """Each .py has a .pyc whose header says unchecked-hash (flags 1) and this Python's magic number."""
    with zipfile.ZipFile(lambda_zip) as archive:
        found = set(archive.namelist())
        sources = [name for name in found if name.endswith(".py")]
        assert len(sources) > 100
        tag = sys.implementation.cache_tag
        for name in sources:
            folder, _, file = name.rpartition("/")
            compiled = f"{folder}/__pycache__/{file[:-3]}.{tag}.pyc".lstrip("/")
            assert compiled in found
            header = archive.read(compiled)[:8]
            assert header[:4] == importlib.util.MAGIC_NUMBER
            assert int.from_bytes(header[4:8], "little") == 0b01


def test_the_zip_is_small(lambda_zip: Path) -> None:
    """Far below Lambda's 50 MB for a direct upload and 250 MB unzipped."""
    with zipfile.ZipFile(lambda_zip) as archive:
        unzipped = sum(entry.file_size for entry in archive.infolist())
    assert lambda_zip.stat().st_size < ZIP_MAX_BYTES
    assert unzipped < UNZIPPED_MAX_BYTES


def test_the_same_tree_gives_the_same_bytes(lambda_zip: Path, tmp_path: Path) -> None:
    """Compiled and packed again, in another place, with other file times: the same zip."""
    tree = tmp_path / "again"
    with zipfile.ZipFile(lambda_zip) as archive:
        for name in archive.namelist():
            if "__pycache__" not in name:
                archive.extract(name, tree)
    build.compile_tree(tree, sys.executable)
    build.pack(tree, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == lambda_zip.read_bytes()


def test_constraints_are_what_the_project_needs_and_nothing_else() -> None:
    """Every runtime dependency is pinned at a version the project accepts; every pin is needed by one of them."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as canonical

    pins = {canonical(line.split("==")[0]): line.split("==")[1] for line in build.pinned()}
    todo = [(Requirement(text), "") for text in build.dependencies()]
    needed: set[str] = set()
    while todo:
        requirement, extra = todo.pop()
        name = canonical(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra, "python_version": "3.12"}):
            continue
        if name in ("async-timeout", "tzdata"):  # Python < 3.11.3, Windows
            continue
        assert name in pins, f"{name} is not in functions/constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]}: pyproject wants {requirement}"
        needed.add(name)
        for inner in ("", *requirement.extras):
            todo += [(Requirement(text), inner) for text in requires(requirement.name) or []]
    assert needed == set(pins)


def test_the_wheel_holds_the_product_alone(tmp_path: Path) -> None:
    """All of `reconcile`, and neither the functions nor the stand-in beside it, whose commands come with it."""
    tree = tmp_path / "checkout"
    shutil.copytree(build.ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(tree)], timeout=300, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    found = [name for name in names(wheel) if ".dist-info/" not in name]
    product = (tree / "reconcile").rglob("*")
    assert sorted(found) == sorted(str(path.relative_to(tree)) for path in product if path.is_file())
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        assert "[reconcile.commands]" not in archive.read(entry_points).decode()


@pytest.mark.parametrize("platform", ["google-cloud", "azure-functions"])
def test_source_directories_are_complete(platform: str, tmp_path: Path) -> None:
    """The entry point the platform looks for, the adapter, `reconcile`, and requirements with versions."""
    config = tmp_path / "mine.yaml"
    config.write_text("views: []\n")
    assert build.main([platform, "--out", str(tmp_path), "--config", str(config)]) == 0
    tree = tmp_path / platform
    entry = {"google-cloud": "main.py", "azure-functions": "function_app.py"}[platform]
    assert (tree / entry).is_file()
    assert (tree / "functions" / build.ADAPTERS[platform]).is_file()
    assert (tree / "config.yaml").read_text() == "views: []\n"
    requirements = (tree / "requirements.txt").read_text().splitlines()
    assert set(build.pinned()) < set(requirements)
    assert not list(tree.rglob("*.pyc"))


def test_an_unknown_python_is_a_plain_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Bytecode of the wrong version would be useless without a word."""
    assert build.main(["aws-lambda", "--python", "3.99", "--out", str(tmp_path)]) == 1
    assert "no python3.99 here" in capsys.readouterr().err


IMPORTING = """
import sys
import functions.aws_lambda
print(sorted(sys.modules))
"""


def test_what_a_cold_start_imports(lambda_task: Path) -> None:
    """The drivers, but nothing of the command line, or what only some configurations need."""
    result = subprocess.run(
        [sys.executable, "-S", "-c", IMPORTING],
        cwd=lambda_task,
        env={"PYTHONPATH": str(lambda_task), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    modules = set(re.findall(r"'([\w.]+)'", result.stdout))
    assert {"psycopg", "redis", "hiredis", "xxhash"} <= modules
    unwanted = ("click", "reconcile.cli", "boto3", "flask", "azure", "rich")
    assert not [name for name in unwanted if name in modules]


def test_make_lambda_zip_is_the_same_build() -> None:
    """The Makefile's target only names the script and its options."""
    result = subprocess.run(
        ["make", "--dry-run", "-C", str(shipped.FUNCTIONS), "lambda-zip", "PYTHON_VERSION=3.12", "ARCH=arm64"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "-m functions.build aws-lambda --python 3.12 --arch arm64" in result.stdout

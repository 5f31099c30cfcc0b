"""Build what is deployed.   python -m functions.build aws-lambda|google-cloud|azure-functions [options]

aws-lambda       dist/reconcile-aws-lambda.zip: code and dependencies, byte-compiled for the target's Python. Lambda's
                 /var/task is read-only, so without .pyc files every cold start would compile everything.
google-cloud     dist/google-cloud/: a source directory for `gcloud functions deploy --source`
azure-functions  dist/azure-functions/: a source directory for `func azure functionapp publish`

The same sources and versions give the same zip, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONSTRAINTS = HERE / "constraints.txt"
PLATFORMS = ("aws-lambda", "google-cloud", "azure-functions")
ADAPTERS = {"aws-lambda": "aws_lambda.py", "google-cloud": "gcp.py", "azure-functions": "azure.py"}
RUNTIMES = {"google-cloud": ["functions-framework>=3.8,<4"], "azure-functions": ["azure-functions>=1.21"]}
SHIPPED = {
    "aws-lambda": [],
    "google-cloud": ["main.py"],
    "azure-functions": ["function_app.py", "host.json", ".funcignore"],
}
# Lambda's Python 3.11 runs on Amazon Linux 2 (glibc 2.26), later ones on Amazon Linux 2023 (glibc 2.34).
NEWER_TAGS = ("manylinux_2_28", "manylinux_2_34")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class BuildError(Exception):
    """The build failed; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one platform's artifact and print its path; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m functions.build", description=__doc__.splitlines()[0])
    parser.add_argument("platform", choices=PLATFORMS)
    parser.add_argument("--python", default="3.13", metavar="X.Y", help="aws-lambda: the runtime's Python (3.13)")
    parser.add_argument("--arch", default="x86_64", choices=("x86_64", "arm64"), help="aws-lambda: x86_64")
    parser.add_argument("--config", type=Path, metavar="FILE", help="goes in as config.yaml (no secrets in it)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        if options.platform == "aws-lambda":
            made = aws_lambda(options.out, options.python, options.arch, options.config)
        else:
            made = source_directory(options.platform, options.out, options.config)
    except BuildError as error:
        sys.stderr.write(f"functions.build: {error}\n")
        return 1
    sys.stdout.write(made)
    return 0


def aws_lambda(out: Path, python: str, arch: str, config: Path | None) -> str:
    """Build out/reconcile-aws-lambda.zip from the directory out/aws-lambda; return a line about it."""
    interpreter = find_interpreter(python)
    tree = fresh(out / "aws-lambda")
    install(tree, python, arch)
    copy_sources(tree, "aws-lambda", config)
    compile_tree(tree, interpreter)
    target = out / "reconcile-aws-lambda.zip"
    pack(tree, target)
    unpacked = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    return (
        f"{target}  {target.stat().st_size / 1e6:.1f} MB, unzipped {unpacked / 1e6:.1f} MB (Python {python}, {arch})\n"
    )


def source_directory(platform: str, out: Path, config: Path | None) -> str:
    """Write sources and requirements.txt, from which the platform installs the dependencies; return the path."""
    tree = fresh(out / platform)
    copy_sources(tree, platform, config)
    (tree / "requirements.txt").write_text("\n".join([*pinned(), *RUNTIMES[platform]]) + "\n")
    return f"{tree}\n"


def fresh(tree: Path) -> Path:
    """Replace the directory by an empty one."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    return tree


def dependencies() -> list[str]:
    """Return the project's runtime requirements, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def pinned() -> list[str]:
    """Return all runtime packages with their versions."""
    lines = CONSTRAINTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def install(tree: Path, python: str, arch: str) -> None:
    """Install the dependencies as wheels for the target's Python and machine, whatever this machine is."""
    machine = {"x86_64": "x86_64", "arm64": "aarch64"}[arch]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(tree), "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for tag in ("manylinux2014", *(NEWER_TAGS if python != "3.11" else ())):
        command += ["--platform", f"{tag}_{machine}"]
    command += ["--no-deps", *pinned()]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own words
        raise BuildError("pip could not install the dependencies; its message is above")
    shutil.rmtree(tree / "bin", ignore_errors=True)
    for record in tree.glob("*.dist-info/*"):
        # importlib.metadata reads METADATA; the rest only names this build's directories and times.
        if record.name != "METADATA":
            shutil.rmtree(record) if record.is_dir() else record.unlink()


def copy_sources(tree: Path, platform: str, config: Path | None) -> None:
    """Copy `reconcile`, the platform's adapter, its other files and the configuration."""
    shutil.copytree(ROOT / "reconcile", tree / "reconcile", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "functions").mkdir()
    for name in ("__init__.py", "event.py", ADAPTERS[platform]):
        shutil.copy(HERE / name, tree / "functions" / name)
    for name in SHIPPED[platform]:
        shutil.copy(HERE / platform / name, tree / name)
    if config is not None:
        shutil.copy(config, tree / "config.yaml")


def find_interpreter(python: str) -> str:
    """Return a Python of the target's minor version, as no other can write its .pyc files. Raises BuildError."""
    if not re.fullmatch(r"3\.\d+", python):
        raise BuildError(f"--python {python}: give major.minor, such as 3.13")
    candidates = [sys.executable, shutil.which(f"python{python}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{python}.*/bin/python")))
    candidates += sorted(map(str, Path.home().glob(f".local/share/uv/python/cpython-{python}.*/bin/python")))
    says = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        found = subprocess.run([candidate, "-c", says], capture_output=True, text=True, check=False)  # noqa: S603
        if found.stdout.strip() == python:
            return candidate
    raise BuildError(f"no python{python} here to compile with; `uv python install {python}` brings one")


def compile_tree(tree: Path, interpreter: str) -> None:
    """Byte-compile. unchecked-hash: the .pyc files stay valid although packing rewrites the files' times."""
    command = [interpreter, "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(tree), "-p", "/var/task", str(tree)]
    if subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode:  # noqa: S603
        raise BuildError("a file does not compile; the message is above")


def pack(tree: Path, target: Path) -> None:
    """Pack the tree. Files are sorted and get one time and plain permissions: the same tree gives the same bytes."""
    target.unlink(missing_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), ZIP_TIME)
            entry.external_attr = (0o755 if ".so" in path.suffixes else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes(), compresslevel=9)


if __name__ == "__main__":
    sys.exit(main())

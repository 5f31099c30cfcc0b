"""cron/container: what can be said about the image and the compose file without Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.platforms import shipped

CONTAINER = shipped.CRON / "container"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (CONTAINER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def compose() -> dict[str, Any]:
    """compose.yaml."""
    (document,) = shipped.documents(CONTAINER / "compose.yaml")
    return document


def test_the_image_is_built_in_two_stages_and_ends_as_nobody() -> None:
    """The last stage has no compiler, no pip of ours, a numeric user (runAsNonRoot needs one) and exec form."""
    found = instructions()
    stages = [n for n, (name, _) in enumerate(found) if name == "FROM"]
    assert len(stages) == 2
    last = dict(found[stages[-1] :])
    assert last["USER"] == "65532:65532"
    assert last["ENTRYPOINT"] == '["reconcile"]'
    assert last["CMD"] == '["run"]'
    assert last["COPY"].startswith("--from=build ")
    assert not any("pip install" in arguments for _, arguments in found[stages[-1] :])


def test_everything_that_is_imported_is_compiled_at_build_time() -> None:
    """Ours, the dependencies and the standard library, whose .pyc files the official images lack."""
    compiling = [arguments for name, arguments in instructions() if name == "RUN" and "compileall" in arguments]
    assert all("--invalidation-mode unchecked-hash" in arguments for arguments in compiling)
    assert any("/opt/reconcile/lib" in arguments for arguments in compiling)
    assert any('get_path("stdlib")' in arguments for arguments in compiling)


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    """Dockerfile.dockerignore lets through exactly what COPY takes."""
    taken = set()
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            taken |= {source.split("/")[0] for source in shlex.split(arguments)[:-1]}
    allowed = {line[1:] for line in (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert taken == allowed
    assert all((shipped.ROOT / name).exists() for name in taken)


def test_nothing_floats() -> None:
    """Images and packages are named by version."""
    images = [service["image"] for service in compose()["services"].values() if "build" not in service]
    images += [arguments.split("=", 1)[1] for name, arguments in instructions() if name == "ARG"]
    for image in images:
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image), image


def test_compose_has_a_real_source_and_target_and_waits_for_them() -> None:
    """reconcile starts when both answer; only the loopback sees their ports; its root is read-only."""
    services = compose()["services"]
    assert services["materialized"]["image"].startswith("materialize/materialized:")
    assert services["redis"]["image"].startswith("redis:")
    ours = services["reconcile"]
    assert ours["depends_on"] == {
        "materialized": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_hands_over_secrets_as_files() -> None:
    """Each secret used is declared, exists, and is what the environment points to."""
    document = compose()
    ours = document["services"]["reconcile"]
    assert set(ours["secrets"]) == set(document["secrets"])
    for name, secret in document["secrets"].items():
        assert (CONTAINER / secret["file"]).is_file()
        assert ours["environment"][f"{name.upper()}_FILE"] == f"/run/secrets/{name}"
    (config,) = ours["configs"]
    assert config["target"] == ours["environment"]["RECONCILE_CONFIG"]
    assert config["source"] in document["configs"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs a mount namespace of its own: root")
def test_the_command_works_as_nobody_on_a_read_only_root(tmp_path: Path) -> None:
    """uid 65532, every file system read-only, no home: help and a configuration error come out as they should."""
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    reconcile = Path(sys.executable).with_name("reconcile")
    if unshare is None or setpriv is None:
        pytest.skip("util-linux is not installed")
    if any(not os.stat(parent).st_mode & 0o005 for parent in Path(os.path.realpath(sys.executable)).parents):
        python_is_private = True
    else:
        python_is_private = False
    confined = f"mount -o remount,bind,ro / && ! touch {tmp_path}/x 2>/dev/null && exec "
    # The interpreter may lie in a home only root can enter; then at least the read-only root is shown.
    who = "" if python_is_private else f"{setpriv} --reuid 65532 --regid 65532 --clear-groups "
    for words, code in (("--help", 0), ("status --config /nonexistent.yaml", 2)):
        script = f"{confined}{who}env -i HOME=/nonexistent PATH=/usr/bin:/bin {reconcile} {words}"
        result = subprocess.run(
            [unshare, "--mount", "sh", "-c", script], cwd="/", capture_output=True, text=True, timeout=300, check=False
        )
        if "unshare failed" in result.stderr or "permission denied" in result.stderr:
            pytest.skip("this machine allows no mount namespace")
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr

"""The commands that the stand-in brings: the story, and the stand-in on its own."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.support import environment
from tests.support.command import PROGRAM

pytestmark = pytest.mark.skipif(environment.source_url() is not None, reason="about the stand-in itself")


def test_the_story_goes_as_it_should() -> None:
    """Every step ends with the exit code the story promises: 5, 8 and 3 among them; a step that does not is named."""
    result = subprocess.run([PROGRAM, "demo", "--rows", "50"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    codes = [int(code) for code in re.findall(r"\(exit (\d+), \d+ ms\)", result.stdout)]
    assert codes == [5, 0, 0, 0, 0, 8, 0, 3, 0, 0, 0]
    assert "this should have been" not in result.stdout
    printed = {figureless(line) for line in result.stdout.splitlines()}
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (shown,) = re.findall(r"^\$ reconcile run  .*?(?=^```)", readme, re.DOTALL | re.MULTILINE)
    told = {figureless(line.partition("  # ")[0]) for line in shown.splitlines()}
    assert told <= printed, told - printed


def figureless(line: str) -> str:
    """A line without its numbers, times and their units, and without names whose order Redis chooses."""
    plain = re.sub(r"[\d,.:TZ-]*\d[\d,.:TZ-]*", "#", re.sub(r"\(price:.*?\)", "()", line)).strip()
    return re.sub(r"took # (ms|s)\b", "took #", plain)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_stand_in_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """It says where it listens, answers there, and ends with 0."""
    with subprocess.Popen([PROGRAM, "emulator", "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(" ")[2])
            with psycopg.connect(f"postgresql://materialize@127.0.0.1:{port}/materialize") as client:
                assert client.execute("SELECT 'here'").fetchone() == ("here",)
            process.send_signal(number)
            assert process.wait(20) == 0
        finally:
            process.kill()

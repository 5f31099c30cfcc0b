"""Where the numbers go: each sink gets them, none ever changes how a run ended, and no secret is told."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconcile.config.settings import MetricsSettings, Secret
from reconcile.errors import ExitCode, Unavailable
from reconcile.report import emf, sinks
from reconcile.report.run_report import DriftReport, RunReport, ViewReport


class Receiver:
    """A web server that remembers what it was asked and answers as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str | None]] = []
        self.answer, self.location, self.wait_s = 200, "", 0.0
        self.answers: Callable[[], object] = lambda: time.sleep(self.wait_s)
        """Before it does."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                receiver.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
                receiver.answers()
                self.send_response(receiver.answer)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = _take  # noqa: N815 - http.server asks for these names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("reconcile"), "propagate", True)
    return caplog


def run(*views: ViewReport, mode: str = "run") -> RunReport:
    return RunReport("run-1", mode, 1_000_000, list(views), 1_001_000)


def failed() -> ViewReport:
    view = ViewReport("stock")
    view.fail(Unavailable("gone"))
    return view


def test_a_push_is_one_group_per_view_and_mode(receiver: Receiver) -> None:
    """Each view's series go to a group of its own, with the user from the URL and below its path."""
    url = f"http://me:s%40cret@{receiver.address}/gw/"
    sinks.publish(run(ViewReport("prices", puts=3), failed()), MetricsSettings(pushgateway=Secret(url)))
    assert [(method, path) for method, path, _, _ in receiver.asked] == [
        ("POST", "/gw/metrics/job/reconcile/mode/run/view@base64/cHJpY2Vz"),
        ("POST", "/gw/metrics/job/reconcile/mode/run/view@base64/c3RvY2s="),
    ]
    assert {user for _, _, _, user in receiver.asked} == {"Basic bWU6c0BjcmV0"}
    assert 'reconcile_rows{view="prices",mode="run",op="put"} 3\n' in receiver.asked[0][2]
    assert "last_success" in receiver.asked[0][2]
    assert "last_success" not in receiver.asked[1][2]


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (run(ViewReport("a"), ViewReport("b", skipped=True)), True),
        (run(ViewReport("a"), failed()), False),
        (run(ViewReport("a", skipped=True)), False),
        (run(ViewReport("a", dry_run=True)), False),
        (run(ViewReport("a", exit_code=ExitCode.INCOMPLETE)), False),
        (run(ViewReport("a", exit_code=ExitCode.DRIFT, drift=DriftReport(stale=1)), mode="verify"), False),
    ],
)
def test_only_a_success_is_told_to_a_dead_mans_switch(receiver: Receiver, report: RunReport, told: bool) -> None:
    """A ping says that the cache is as it should be: anything else keeps silent, so that the switch goes off."""
    sinks.publish(report, MetricsSettings(ping=Secret(f"http://{receiver.address}/uuid-1?x=1")))
    assert [asked[:2] for asked in receiver.asked] == ([("GET", "/uuid-1?x=1")] if told else [])


def test_lines_for_cloudwatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON line per view, added to a file or to stderr; every metric it names is there, with a unit."""
    path = tmp_path / "emf.log"
    report = run(ViewReport("prices", keys=7, lag_ms=1500, duration_ms=20), failed())
    for target in (str(path), str(path), "-"):
        sinks.publish(report, MetricsSettings(emf=target))
    out, err = capsys.readouterr()
    assert out == ""
    assert path.read_text() == err * 2
    first, second = (json.loads(line) for line in err.splitlines())
    assert (first["View"], first["Mode"], first["Keys"], first["Lag"], first["Succeeded"]) == (
        "prices",
        "run",
        7,
        1500,
        1,
    )
    assert (second["View"], second["Succeeded"], second["ExitCode"]) == ("stock", 0, 6)
    for idle in (ViewReport("prices", skipped=True), ViewReport("prices", dry_run=True)):
        assert [line["Succeeded"] for line in emf.lines(run(idle))] == [0]  # as for a dead man's switch
    for line in (first, second):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert line["_aws"]["Timestamp"] == 1_001_000
        assert all(
            line[one["Name"]] is not None and emf.UNITS[one["Name"]] == one["Unit"] for one in directive["Metrics"]
        )
        assert all(isinstance(line[name], str) for name in directive["Dimensions"][0])


def test_a_failure_before_any_view_is_told_too(tmp_path: Path) -> None:
    """Without a view there is no dimension to leave empty."""
    report = RunReport("", "run", 0)
    report.fail(Unavailable("no configuration"))
    (line,) = emf.lines(report)
    assert (line["View"], line["Succeeded"], line["ExitCode"]) == ("-", 0, 6)


def silent() -> tuple[socket.socket, str]:
    """A server that accepts and says nothing."""
    made = socket.create_server(("127.0.0.1", 0))
    return made, f"127.0.0.1:{made.getsockname()[1]}"


SECRETS = re.compile("s3cret|uuid-1")
BOUNDED_S = 25.0
"""Less than those who hang would take, and time enough for a machine that stalls."""


@pytest.mark.parametrize("kind", ["pushgateway", "ping"])
@pytest.mark.parametrize("fault", ["refused", "silent", "unknown", "500", "redirect", "not http"])
def test_a_sink_that_fails_is_one_warning(
    receiver: Receiver, logged: pytest.LogCaptureFixture, kind: str, fault: str
) -> None:
    """One line that names the host and the reason, never the URL; in bounded time; nothing is raised."""
    server, address = silent()
    if fault == "refused":
        server.close()
    elif fault == "unknown":
        address = "no-such-host.invalid:80"
    elif fault in ("500", "redirect"):
        address = receiver.address
        receiver.answer, receiver.location = (500, "") if fault == "500" else (302, f"http://{address}/elsewhere")
    elif fault == "not http":
        threading.Thread(target=lambda: server.accept()[0].sendall(b"\0" * 99_999 + b"\n"), daemon=True).start()
    url = Secret(f"http://user:s3cret@{address}/uuid-1")
    started = time.monotonic()
    settings = MetricsSettings(pushgateway=url) if kind == "pushgateway" else MetricsSettings(ping=url)
    sinks.publish(run(ViewReport("prices")), settings, timeout_s=1.0)
    assert time.monotonic() - started < BOUNDED_S
    server.close()
    (message,) = logged.messages
    assert message.startswith(f"cannot write the {'Pushgateway' if kind == 'pushgateway' else 'ping'} at {address}: ")
    assert not SECRETS.search(logged.text)
    assert len(receiver.asked) == (fault in ("500", "redirect")), "a redirect is not followed"


def test_sinks_wait_for_each_other_not_at_all(
    receiver: Receiver, logged: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Two that hang do so at the same time, and the file is written all the same."""
    receiver.wait_s = 30.0
    url, path = Secret(f"http://{receiver.address}/x"), tmp_path / "m.prom"
    started = time.monotonic()
    sinks.publish(run(ViewReport("prices")), MetricsSettings(str(path), url, None, url), timeout_s=1.0)
    assert time.monotonic() - started < BOUNDED_S
    assert "reconcile_exit_code" in path.read_text()
    assert len(logged.messages) == 2


def test_sinks_are_told_at_the_same_time(receiver: Receiver, logged: pytest.LogCaptureFixture) -> None:
    """Each is answered only once the other has been asked too."""
    together = threading.Barrier(2)
    receiver.answers = lambda: together.wait(BOUNDED_S)
    url = Secret(f"http://{receiver.address}/x")
    sinks.publish(run(ViewReport("prices")), MetricsSettings(None, url, None, url), timeout_s=BOUNDED_S)
    assert logged.messages == []
    assert len(receiver.asked) == 2


def test_a_bug_in_a_sink_is_a_warning(logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised inside stays inside."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(emf, "lines", broken)
    sinks.publish(run(ViewReport("prices")), MetricsSettings(emf="-"))
    assert logged.messages == ["cannot write the CloudWatch log: ZeroDivisionError"]

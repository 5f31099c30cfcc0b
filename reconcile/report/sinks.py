"""Deliver the numbers of a finished run: to a file, a Pushgateway, CloudWatch's log format, a dead man's switch.

A process that exits cannot be scraped, so it pushes. Nothing here changes how a run ended: each sink has a thread of
its own that is abandoned when time is up, and a failure is one warning in the log. URLs are secrets (a ping's path is
its key), so only their host is named.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable

from reconcile.config.settings import MetricsSettings, Secret
from reconcile.report import emf, metrics
from reconcile.report.run_report import RunReport

logger = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""Time limit for all sinks together."""
_PUSH_TYPE = "text/plain; version=0.0.4"
_AGENT = "reconcile"


class SinkError(Exception):
    """A sink did not accept the numbers; the text names neither secrets nor rows."""


def publish(report: RunReport, settings: MetricsSettings, timeout_s: float = TIMEOUT_S) -> None:
    """Send a run's numbers to all configured sinks in parallel. Never raises; takes at most timeout_s."""
    jobs: dict[str, Callable[[], None]] = {}
    if settings.file is not None:
        path = settings.file
        jobs[f"the metrics file {path}"] = lambda: metrics.write_textfile(report, path)
    if settings.pushgateway is not None:
        gateway = settings.pushgateway
        jobs[f"the Pushgateway at {host_of(gateway)}"] = lambda: push(report, gateway, timeout_s)
    if settings.emf is not None:
        target = settings.emf
        jobs["the CloudWatch log" if target == "-" else f"the CloudWatch log {target}"] = lambda: log_emf(
            report, target
        )
    if settings.ping is not None and report.succeeded:
        url = settings.ping
        jobs[f"the ping at {host_of(url)}"] = lambda: ping(url, timeout_s)
    until = time.monotonic() + timeout_s
    threads = [_Job(name, job) for name, job in jobs.items()]
    for one in threads:
        one.start()
    for one in threads:
        one.join(max(0.0, until - time.monotonic()))
        reason = f"no end within {timeout_s:g} s" if one.is_alive() else one.reason
        if reason:
            logger.warning("cannot write %s: %s", one.what, reason)


class _Job(threading.Thread):
    """One sink at work, in a daemon thread: a server that does not answer does not keep the process alive."""

    def __init__(self, what: str, job: Callable[[], None]) -> None:
        super().__init__(name="sink", daemon=True)
        self.what = what
        self.reason = ""
        self._job = job

    def run(self) -> None:
        try:
            self._job()
        except Exception as error:
            self.reason = _reason(error)


def _reason(error: Exception) -> str:
    """Return the reason for a failure in words that cannot contain a URL."""
    if isinstance(error, SinkError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return error.strerror or "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


# -- HTTP ------------------------------------------------------------------------------------------------------------


def host_of(url: Secret) -> str:
    """Return the part of a URL that may be named: host and port."""
    parts = urllib.parse.urlsplit(url.reveal())
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _connect(url: Secret, timeout_s: float) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection, the URL's path with its query, and headers for the user it names."""
    parts = urllib.parse.urlsplit(url.reveal())
    headers = {"User-Agent": _AGENT}
    if parts.username is not None:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    path = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
    return kind(parts.hostname or "", parts.port, timeout=timeout_s), path, headers


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    """Send one request; any answer but 2xx is a SinkError, redirects too: they could lead the secret elsewhere."""
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    response.read()
    if not 200 <= response.status < 300:
        raise SinkError(f"it answered HTTP {response.status}")


def ping(url: Secret, timeout_s: float) -> None:
    """Tell a dead man's switch that a run succeeded. Raises SinkError, OSError."""
    connection, path, headers = _connect(url, timeout_s)
    try:
        _ask(connection, "GET", path or "/", None, headers)
    finally:
        connection.close()


def push(report: RunReport, url: Secret, timeout_s: float) -> None:
    """Replace a Pushgateway's groups for these views and this mode. Raises SinkError, OSError.

    One group per view and mode. POST keeps metrics for which this run has no value: the time of the last success
    outlives a failure, as in the file.
    """
    connection, path, headers = _connect(url, timeout_s)
    headers["Content-Type"] = _PUSH_TYPE
    try:
        for (view, mode), group in metrics.by_owner(report).items():
            labels = f"mode/{mode}/view@base64/{base64.urlsafe_b64encode(view.encode()).decode() or '='}"
            body = metrics.render(group).encode()
            _ask(connection, "POST", f"{path.rstrip('/')}/metrics/job/reconcile/{labels}", body, headers)
    finally:
        connection.close()


# -- CloudWatch ------------------------------------------------------------------------------------------------------


def log_emf(report: RunReport, target: str) -> None:
    """Add one line per view to a file, or to stderr for '-'. Raises OSError."""
    text = "".join(json.dumps(line) + "\n" for line in emf.lines(report))
    if target == "-":
        sys.stderr.write(text)
        sys.stderr.flush()
        return
    with open(target, "a", encoding="utf-8") as file:
        file.write(text)

"""Google Cloud end to end: the built source directory, served by Google's own functions-framework over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from functions import build
from tests.platforms import open_sockets
from tests.platforms.conftest import Deployment
from tests.support.meanwhile import eventually
from tests.support.redis_servers import free_port

START_MAX_S = 60.0


class Service:
    """functions-framework with one of our entry points."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def post(self, body: bytes, **headers: str) -> tuple[int, str]:
        """Status and body of a POST."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url, data=body, headers=named, method="POST")
        return self.send(request)

    @staticmethod
    def send(request: urllib.request.Request) -> tuple[int, str]:
        """Status and body, also of a refusal."""
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture(scope="session")
def source_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `gcloud functions deploy --source` would upload."""
    out = tmp_path_factory.mktemp("google")
    assert build.main(["google-cloud", "--out", str(out)]) == 0
    return out / "google-cloud"


@pytest.fixture
def serve(source_directory: Path, deployment: Deployment, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts functions-framework as Cloud Run does; stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(target: str, signature: str, **env: str) -> Service:
            port = free_port()
            command = [str(Path(sys.executable).with_name("functions-framework")), "--target", target]
            command += ["--signature-type", signature, "--source", str(source_directory / "main.py")]
            command += ["--host", "127.0.0.1", "--port", str(port)]
            log = tmp_path / f"{target}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=source_directory,
                    env={**deployment.env, "PYTHONDONTWRITEBYTECODE": "1", **env},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(stop, process)
            deadline = time.monotonic() + START_MAX_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    return Service(port, process, log)
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)

        yield start


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, as Cloud Run; SIGKILL ten seconds later, as Cloud Run."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """gunicorn's workers."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()] or [process.pid]


def test_http_as_cloud_scheduler_calls_it(serve: Any, deployment: Deployment) -> None:
    """A JSON body without a content type, then an empty one; the response is the report; nothing stays open."""
    service = serve("reconcile_http", "http")
    deployment.put({f"k{n}": f"v{n}" for n in range(100)})
    status, body = service.post(b'{"mode": "run"}', Content_Type="application/octet-stream")
    assert status == 200, body + service.log
    assert json.loads(body)["exit_code"] == 0
    assert deployment.stored() == deployment.view()
    deployment.put({"k0": "changed"})
    status, body = service.post(b"")
    assert (status, json.loads(body)["status"]) == (200, "done")
    assert deployment.stored() == deployment.view()
    for pid in children(service.process):
        assert open_sockets.to(pid, deployment.env["MATERIALIZE_URL"], deployment.env["REDIS_URL"]) == []
    entry = json.loads([line for line in service.log.splitlines() if line.startswith('{"severity"')][-1])
    assert entry == {"severity": "INFO", "reconcile": json.loads(body)}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("", b'{"mod": "run"}', "did you mean 'mode'?"),
        ("", b"mode=run", "not JSON"),
        ("?mode=verify", b"", "unknown event key '?mode'"),
    ],
)
def test_http_refuses_what_it_cannot_mean(
    serve: Any, deployment: Deployment, path: str, body: bytes, says: str
) -> None:
    """422: Cloud Scheduler shows a failure, and nothing ran."""
    service = serve("reconcile_http", "http")
    deployment.put({"a": "1"})
    service.url += path
    status, answer = service.post(body)
    assert status == 422
    assert says in json.dumps(json.loads(answer)["error"])
    assert deployment.stored() == {}


def test_http_says_503_when_a_retry_may_help(serve: Any) -> None:
    """Materialize unreachable: the scheduler's retry is the next attempt; no password in body or log."""
    url = "postgres://someone:hunter2@127.0.0.1:1/materialize?sslmode=disable"
    service = serve("reconcile_http", "http", MATERIALIZE_URL=url)
    status, body = service.post(b"{}")
    assert (status, json.loads(body)["exit_code"]) == (503, 6)
    assert "hunter2" not in body + service.log


def test_http_drift_is_a_failure_without_retry(serve: Any, deployment: Deployment) -> None:
    """`verify` over HTTP: 200 when equal, 422 with exit code 3 on drift."""
    service = serve("reconcile_http", "http")
    deployment.put({"a": "1"})
    assert service.post(b"{}")[0] == 200
    assert service.post(b'{"mode": "verify"}')[0] == 200
    deployment.tamper("a")
    status, body = service.post(b'{"mode": "verify"}')
    assert (status, json.loads(body)["exit_code"]) == (422, 3)
    assert "tampered" not in body + service.log


def pubsub(event: object) -> bytes:
    """The body of a Pub/Sub delivery."""
    data = base64.b64encode(json.dumps(event).encode()).decode()
    return json.dumps(
        {"message": {"data": data, "messageId": "1"}, "subscription": "projects/p/subscriptions/s"}
    ).encode()


CLOUD_EVENT = {
    "ce_specversion": "1.0",
    "ce_type": "google.cloud.pubsub.topic.v1.messagePublished",
    "ce_source": "//pubsub.googleapis.com/projects/p/topics/t",
    "Content_Type": "application/json",
}


def test_cloud_event_of_pubsub(serve: Any, deployment: Deployment) -> None:
    """A delivery runs; the same delivery again changes nothing; a malformed one is logged and taken."""
    service = serve("reconcile_event", "cloudevent")
    deployment.put({f"k{n}": f"v{n}" for n in range(100)})
    for _ in range(2):
        status, body = service.post(pubsub({"mode": "run"}), ce_id="1", **CLOUD_EVENT)
        assert status == 200, body + service.log
        assert deployment.stored() == deployment.view()
    for broken in (pubsub({"mod": "run"}), json.dumps({"message": {"data": "!"}}).encode()):
        assert service.post(broken, ce_id="2", **CLOUD_EVENT)[0] == 200
    assert service.log.count('{"severity": "ERROR"') == 2
    # A CloudEvent of another kind: its data is the event.
    assert service.post(b'{"mode": "verify"}', ce_id="3", **{**CLOUD_EVENT, "ce_type": "custom"})[0] == 200


def test_cloud_event_raises_when_a_retry_may_help(serve: Any) -> None:
    """500: Pub/Sub delivers again."""
    url = "postgres://someone:hunter2@127.0.0.1:1/materialize?sslmode=disable"
    service = serve("reconcile_event", "cloudevent", MATERIALIZE_URL=url)
    status, body = service.post(pubsub({}), ce_id="1", **CLOUD_EVENT)
    assert status == 500
    assert "hunter2" not in body + service.log


def test_two_requests_at_once(serve: Any, deployment: Deployment) -> None:
    """Two ticks in one instance, in two threads of one process: neither fails, and Redis equals the view."""
    service = serve("reconcile_http", "http")
    deployment.put({f"k{n}": f"v{n}" for n in range(500)})
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: service.post(b"{}"), range(2)))
    assert [status for status, _ in answers] == [200, 200], answers
    assert deployment.stored() == deployment.view()


def test_a_second_request_during_the_first(serve: Any, deployment: Deployment) -> None:
    """While one thread follows, the other finds the lease taken and answers 200 at once."""
    service = serve("reconcile_http", "http")
    deployment.put({"a": "1"})
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(service.post, b'{"follow_s": 8}')
        eventually(lambda: deployment.stored() == deployment.view())
        status, body = service.post(b"{}")
        assert (status, json.loads(body)["status"]) == (200, "skipped")
        deployment.put({"b": "2"})
        assert following.result(30)[0] == 200
    assert deployment.stored() == deployment.view()


def test_the_platform_limit_is_kept(serve: Any, deployment: Deployment) -> None:
    """Cloud Run's request timeout reaches the run: asked to follow for ten minutes, it answers within 12 s."""
    service = serve("reconcile_http", "http", CLOUD_RUN_TIMEOUT_SECONDS="12")
    deployment.put({"a": "1"})
    started = time.monotonic()
    status, body = service.post(b'{"mode": "run", "follow_s": 600}')
    assert time.monotonic() - started < 12
    assert status == 200, body
    assert deployment.stored() == deployment.view()

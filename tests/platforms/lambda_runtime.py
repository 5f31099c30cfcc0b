"""Lambda without AWS: its Runtime API from the standard library, AWS's own runtime client as the process.

The API is the one of https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; where Lambda would, it kills.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

START_MAX_S = 60.0


@dataclass
class Invocation:
    """One event on its way, then its result: a response, an error, or neither when the process was killed."""

    event: object
    limit_s: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    taken: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    response: Any = None
    error: dict[str, Any] | None = None
    took_s: float = 0.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """GET /2018-06-01/runtime/invocation/next waits for an event."""
        assert self.path == "/2018-06-01/runtime/invocation/next", self.path
        self.server.idle.set()
        invocation = self.server.events.get()
        if invocation is None:
            self.close_connection = True
            return
        self.server.idle.clear()
        self.server.pending[invocation.id] = invocation
        body = json.dumps(invocation.event).encode()
        self.send_response(200)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + invocation.limit_s) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:123456789012:function:reconcile",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        invocation.taken.set()

    def do_POST(self) -> None:
        """POST …/invocation/{id}/response, …/invocation/{id}/error, …/init/error."""
        body = self._body()
        *_, invocation_id, kind = self.path.split("/")
        if invocation_id == "init":
            self.server.init_errors.append(json.loads(body))
        else:
            invocation = self.server.pending.pop(invocation_id)
            if kind == "response":
                invocation.response = json.loads(body)
            else:
                invocation.error = json.loads(body)
            invocation.done.set()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_arguments: object) -> None:
        """Nothing on the test's output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.pending: dict[str, Invocation] = {}
        self.init_errors: list[dict[str, Any]] = []
        self.idle = threading.Event()


class Sandbox:
    """One execution environment: cold at first, warm from the second invocation on."""

    def __init__(self, server: _Server, process: subprocess.Popen[bytes], log: Path) -> None:
        self._server = server
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What CloudWatch would show."""
        return self._log.read_text(errors="replace")

    def metrics(self) -> list[dict[str, Any]]:
        """The log's lines in embedded metric format."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith('{"_aws"')]

    def ready(self) -> None:
        """Wait until a cold start is over: what comes next is the invocation alone."""
        assert self._server.idle.wait(START_MAX_S), self.log

    def start(self, event: object, limit_s: float = 60.0) -> Invocation:
        """Hand over an event; returns when the process has it."""
        invocation = Invocation(event, limit_s)
        self._server.events.put(invocation)
        assert invocation.taken.wait(START_MAX_S), f"the runtime did not ask for an event\n{self.log}"
        return invocation

    def finish(self, invocation: Invocation, *, kill_after_s: float) -> Invocation:
        """Wait for the result; at the limit the process is killed, as Lambda does."""
        started = time.monotonic()
        if not invocation.done.wait(kill_after_s):
            self.kill()
        invocation.took_s = time.monotonic() - started
        return invocation

    def invoke(self, event: object, limit_s: float = 60.0) -> Invocation:
        """One invocation from start to end; afterwards the runtime is idle: frozen, in the real thing."""
        invocation = self.finish(self.start(event, limit_s), kill_after_s=limit_s)
        assert self._server.idle.wait(10) or not self.alive
        return invocation

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def init_errors(self) -> list[dict[str, Any]]:
        return self._server.init_errors

    def kill(self) -> None:
        """SIGKILL: Lambda's timeout."""
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def sandbox(task: Path, env: dict[str, str], log: Path) -> Iterator[Sandbox]:
    """awslambdaric in an environment like Lambda's: the task directory, unwritable .pyc, no terminal."""
    server = _Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    full = {
        **env,
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_address[1]}",
        "AWS_LAMBDA_FUNCTION_NAME": "reconcile",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_REGION": "eu-central-1",
        "LAMBDA_TASK_ROOT": str(task),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "awslambdaric", "functions.aws_lambda.handler"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=task, env=full, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Sandbox(server, process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        server.events.put(None)
        server.shutdown()
        server.server_close()

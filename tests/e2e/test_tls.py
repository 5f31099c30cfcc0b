"""TLS to both servers, with a certificate that is checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from reconcile.emulator import Emulator
from tests.support.command import Command
from tests.support.redis_servers import RedisServer, free_port, server_binary
from tests.support.sources import SourceServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls_redis(certificate: tuple[str, str], tmp_path: Path) -> RedisServer:
    """A server that speaks TLS only; skipped where the server was built without it."""
    cert, key = certificate
    port = free_port()
    binary = shutil.which("redis-server") or server_binary()
    command = [binary, "--port", "0", "--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key]
    command += ["--tls-ca-cert-file", cert, "--tls-auth-clients", "no", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    server = RedisServer(f"rediss://127.0.0.1:{port}/0", port, tmp_path)
    for _ in range(100):
        if process.poll() is not None:
            pytest.skip(f"{binary} was built without TLS")
        try:
            server.client(ssl_ca_certs=cert).ping()
            break
        except redis.ConnectionError:
            continue
    yield server  # type: ignore[misc]
    process.kill()
    process.wait()


def test_tls_to_redis(
    command: Command, source_server: SourceServer, tls_redis: RedisServer, certificate: tuple[str, str]
) -> None:
    """rediss:// works with the certificate given, and is refused without it."""
    command.config["redis"]["url"] = tls_redis.url
    refused = command("run", expect=2)
    assert "TLS to Redis fails" in refused.view["error"]["message"]
    command.config["redis"]["tls_ca_cert"] = certificate[0]
    command("run")
    command("verify")
    assert tls_redis.client(ssl_ca_certs=certificate[0]).hget("reconcile:{default}:state", "as_of")


def test_tls_to_materialize(command: Command, certificate: tuple[str, str], redis_server: RedisServer) -> None:
    """sslmode=verify-full checks the certificate; cancelling a subscription works over TLS too."""
    with Emulator(port=0, tls=certificate) as emulator:
        command.config["materialize"] = {
            "url": f"{emulator.url}?sslmode=verify-full",
            "sql": "SELECT 'a' AS key, 'b' AS value",
        }
        assert "TLS to Materialize fails" in command("run", expect=2).view["error"]["message"]
        command.config["materialize"]["url"] = f"{emulator.url}?sslmode=verify-full&sslrootcert={certificate[0]}"
        command("run")
        assert redis_server.client().get("p:a") == b"b"
        command.config["materialize"]["sql"] = "SELECT mz_objects.id AS key, name AS value FROM mz_objects"
        command("snapshot")
        command("run", "--for", "2s")

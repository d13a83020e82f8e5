"""A real API server for tests: its own process on a free port of the loopback, with its own state and certificates.

`api_server` is a pytest fixture for one test; `running_server` is the context manager behind it, for fixtures of
another scope. Register with `pytest_plugins = ["egresslab.cluster.testing"]` or import the fixture. Nothing here needs
root.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from egresslab.errors import ClusterError

START_S = 15.0
_ADMIN = ("kubernetes-admin", "system:masters")


@dataclass(slots=True)
class RunningServer:
    """A server under test; `kubeconfig` is the administrator's. `kill` and `start` make it crash and come back."""

    directory: Path
    url: str
    kubeconfig: Path
    config: Path
    tokens: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def ca(self) -> Path:
        """The certificate that signs the server's."""
        return self.directory / "ca.crt"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the process and wait until it is ready; raises `ClusterError` with its log when it does not come up."""
        command = [sys.executable, "-m", "egresslab.cluster.controlplane", "--config", str(self.config)]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONHASHSEED": "0"})
        trust = ssl.create_default_context(cafile=str(self.ca))
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", context=trust, timeout=START_S):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        log_text = (self.directory / "server.log").read_text()[-4000:]
        self.kill()
        raise ClusterError(f"the API server did not become ready within {START_S:g} s:\n{log_text}", object=self.url)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process, by default as a crash does."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_S)
            self.process = None

    def kubeconfig_for(self, user: str) -> Path:
        """A kubeconfig of another user in `tokens`."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        _write_kubeconfig(path, self.url, self.ca, self.tokens[user])
        return path


@contextmanager
def running_server(directory: Path, users: dict[str, str] | None = None, **settings: Any) -> Iterator[RunningServer]:
    """Run a server in `directory` (empty, or of an earlier run). `users` maps further user names to their groups
    (comma-separated); `settings` are further keys of its configuration file.
    """
    port = _free_port()
    certificates(directory)
    known = {_ADMIN[0]: _ADMIN[1], "system:apiserver": "", **(users or {})}
    tokens = {user: secrets.token_hex(16) for user in known}
    lines = [f'{tokens[user]},{user},{user},"{groups}"' for user, groups in known.items()]
    (directory / "tokens.csv").write_text("\n".join(lines) + "\n")
    url = f"https://127.0.0.1:{port}"
    names = {"cert": "apiserver.crt", "key": "apiserver.key", "ca": "ca.crt"}
    config = {
        "lab": "test",
        "state": str(directory / "state.sqlite"),
        "host_bind": f"127.0.0.1:{port}",
        "tls": {part: str(directory / name) for part, name in names.items()},
        "tokens": str(directory / "tokens.csv"),
        "kubelet_token": tokens["system:apiserver"],
        **settings,
    }
    (directory / "control-plane.json").write_text(json.dumps(config))
    kubeconfig = directory / "kubeconfig"
    _write_kubeconfig(kubeconfig, url, directory / "ca.crt", tokens[_ADMIN[0]])
    server = RunningServer(directory, url, kubeconfig, directory / "control-plane.json", tokens)
    server.start()
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[RunningServer]:
    """An API server without controllers, for one test."""
    with running_server(tmp_path) as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_kubeconfig(path: Path, url: str, ca: Path, token: str) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)


def certificates(directory: Path) -> None:
    """A CA and a server certificate for 127.0.0.1 and localhost; kept if they are there."""
    if (directory / "apiserver.crt").exists():
        return
    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])

    def build(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    authority = (
        build(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "apiserver")]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "ca.crt").write_bytes(authority.public_bytes(pem))
    (directory / "apiserver.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "apiserver.key").write_bytes(private)

"""A real API server for tests: its own process on a free port of the loopback, with its own state and certificates.

Given `Assets` it is Kubernetes' own, with etcd, and our control plane beside it runs the controllers alone.

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

from egresslab.cluster.assets import Assets, Place
from egresslab.errors import ClusterError

START_S = 60.0
_ADMIN = ("kubernetes-admin", "system:masters")


@dataclass(slots=True)
class RunningServer:
    """A server under test; `kubeconfig` is the administrator's. `kill` and `start` make it crash and come back."""

    directory: Path
    url: str
    kubeconfig: Path
    tokens: dict[str, str]
    commands: list[list[str]]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    @property
    def ca(self) -> Path:
        """The certificate that signs the server's."""
        return self.directory / "ca.crt"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self.processes[0].pid

    def start(self) -> None:
        """Start it and wait until it is ready; raises `ClusterError` with its log when it does not come up."""
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        with (self.directory / "server.log").open("ab") as log:
            for command in self.commands:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        trust = ssl.create_default_context(cafile=str(self.ca))
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", context=trust, timeout=START_S):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        log_text = (self.directory / "server.log").read_text()[-4000:]
        self.kill()
        raise ClusterError(f"the API server did not become ready within {START_S:g} s:\n{log_text}", object=self.url)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End its processes, by default as a crash does."""
        for process in self.processes:
            process.send_signal(number)
            process.wait(START_S)
        self.processes.clear()

    def kubeconfig_for(self, user: str) -> Path:
        """A kubeconfig of another user in `tokens`."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        _write_kubeconfig(path, self.url, self.ca, self.tokens[user])
        return path


@contextmanager
def running_server(
    directory: Path, users: dict[str, str] | None = None, *, assets: Assets | None = None, **settings: Any
) -> Iterator[RunningServer]:
    """Run a server in `directory` (empty, or of an earlier run). `users` maps further user names to their groups
    (comma-separated); `settings` are further keys of its configuration file.
    """
    port = free_port()
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
    commands = [[sys.executable, "-m", "egresslab.cluster.controlplane", "--config", f"{directory}/control-plane.json"]]
    if assets is not None:
        accounts = settings.get("service_accounts", "kubeconfig" in settings)
        place = Place(
            directory, directory, directory / "tokens.csv", "127.0.0.1", port, _free_pair(), accounts=accounts
        )
        config |= {"host_bind": f"127.0.0.1:{free_port()}", "upstream": f"127.0.0.1:{port}"}
        commands = [assets.api_server(place), assets.etcd(place), *(commands if "kubeconfig" in settings else ())]
    (directory / "control-plane.json").write_text(json.dumps(config))
    kubeconfig = directory / "kubeconfig"
    _write_kubeconfig(kubeconfig, url, directory / "ca.crt", tokens[_ADMIN[0]])
    server = RunningServer(directory, url, kubeconfig, tokens, commands)
    server.start()
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM if assets is None else signal.SIGKILL)


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[RunningServer]:
    """An API server without controllers, for one test."""
    with running_server(tmp_path) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_pair() -> int:
    """A port that is free, and the next one is too."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


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
    """A CA, a server certificate for 127.0.0.1 and localhost, and the server's own as a client; kept if there."""
    if (directory / "apiserver.crt").exists():
        return
    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
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
    pem = serialization.Encoding.PEM
    (directory / "ca.crt").write_bytes(authority.public_bytes(pem))
    for stem in ("apiserver", "apiserver-client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)]), key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{stem}.crt").write_bytes(certificate.public_bytes(pem))
        (directory / f"{stem}.key").write_bytes(private)

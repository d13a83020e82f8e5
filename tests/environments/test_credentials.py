"""Keys, tokens and kubeconfigs: verifiable by a stranger's TLS, and readable by nobody but their owner."""

from __future__ import annotations

import csv
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from egresslab.environments.netns.credentials import Identities, write_certificates, write_kubeconfig, write_tokens
from egresslab.environments.netns.files import write_atomically
from egresslab.environments.netns.paths import LabPaths
from egresslab.environments.netns.topology import Topology


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabPaths:
    """A lab's paths below a temporary directory."""
    monkeypatch.setattr("egresslab.environments.netns.paths.STATE", tmp_path)
    paths = LabPaths("keys")
    paths.root.mkdir()
    return paths


def _handshake(server: Path, key: Path, authority: Path, name: str) -> None:
    """A TLS handshake in memory; raises SSLError when the certificate does not do."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server, key)
    asking = ssl.create_default_context(cafile=str(authority))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        asking.wrap_bio(to_client, to_server, server_hostname=name),
        serving.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not ends


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("apiserver", "127.0.0.1"),
        ("apiserver", "192.168.60.10"),
        ("apiserver", "10.96.0.1"),
        ("apiserver", "kubernetes.default.svc"),
        ("outside", "ifconfig.me"),
        ("outside", "192.168.60.13"),
        ("outside", "2001:db8:113::10"),
        ("kubelet-lab-worker2", "192.168.60.12"),
    ],
)
def test_certificates_are_good_for_the_names_they_are_used_with(
    lab: LabPaths, topology: Topology, stem: str, name: str
) -> None:
    write_certificates(lab, topology)
    _handshake(lab.pki / f"{stem}.crt", lab.pki / f"{stem}.key", lab.pki / "ca.crt", name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(lab.pki / f"{stem}.crt", lab.pki / f"{stem}.key", lab.pki / "ca.crt", "elsewhere.example")


def test_only_the_authority_may_sign(lab: LabPaths, topology: Topology) -> None:
    write_certificates(lab, topology)
    for file in lab.pki.glob("*.crt"):
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert constraints.ca == (file.stem == "ca")


def test_secrets_are_readable_by_their_owner_only(lab: LabPaths, topology: Topology) -> None:
    write_certificates(lab, topology)
    identities = Identities.new(node.name for node in topology.nodes)
    write_tokens(lab.tokens, identities)
    write_kubeconfig(lab.kubeconfig, "keys", "https://127.0.0.1:1", b"", identities.administrator)
    for file in (*lab.pki.glob("*.key"), lab.tokens, lab.kubeconfig):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_tokens_are_distinct_and_in_the_format_of_kube_apiserver(lab: LabPaths, topology: Topology) -> None:
    write_tokens(lab.tokens, Identities.new(node.name for node in topology.nodes))
    rows = list(csv.reader(lab.tokens.read_text().splitlines()))
    assert len({row[0] for row in rows}) == len(rows) == len(topology.nodes) + 4
    assert ["kubernetes-admin", "system:masters"] in [[row[1], row[3]] for row in rows]
    assert ["system:node:lab-worker", "system:nodes"] in [[row[1], row[3]] for row in rows]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_atomically(file, "old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, "new")
    assert file.read_text() == "old"

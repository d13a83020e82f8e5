"""Ways to an API server: what we read ourselves must mean what it means to the official client."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from egresslab.api import access
from egresslab.environments.netns.pki import Subject, write_pki
from egresslab.errors import ClusterError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and `client.crt` that it signed."""
    directory = tmp_path_factory.mktemp("pki")
    write_pki(directory, "unit", [Subject("client", "somebody", client=True)])
    return directory


def kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig whose current context is the second one."""
    other = {"server": "https://other.example:6443"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "b",
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in "ab"]
        + [{"name": "c", "context": {"cluster": "b", "user": "c"}}],
        "clusters": [{"name": "a", "cluster": other}, {"name": "b", "cluster": cluster}],
        "users": [
            {"name": "a", "user": {"token": "wrong"}},
            {"name": "b", "user": user},
            {"name": "c", "user": {"token": "another"}},
        ],
    }
    path.write_text(json.dumps(content))
    return path


def data(file: Path) -> str:
    return b64encode(file.read_bytes()).decode()


async def test_a_token_and_an_authority_mean_the_same_to_us_and_to_the_official_client(
    tmp_path: Path, authority: Path
) -> None:
    cluster = {
        "server": "https://[fd00::1]:6443/prefix",
        "certificate-authority-data": data(authority / "ca.crt"),
    }
    path = kubeconfig(tmp_path / "config", cluster, {"token": "secret"})
    ours, theirs = access._plain(path, None), await access._official(path, None)
    assert ours is not None
    assert ours.url == theirs.url == cluster["server"]
    assert await ours.authorization() == await theirs.authorization() == "Bearer secret"
    assert ours.ssl_context().get_ca_certs() == theirs.ssl_context().get_ca_certs() != []
    other = access._plain(path, "c")
    assert other is not None
    assert await other.authorization() == "Bearer another"
    assert access._plain(path, "missing") is None
    assert (await ours.official()).host == ours.url
    settings = await (await ours.official()).auth_settings()
    assert settings["BearerToken"]["value"] == "Bearer secret"


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"tls-server-name": "kubernetes"}, {"token": "secret"}),
        ({"proxy-url": "http://127.0.0.1:3128"}, {"token": "secret"}),
        ({"insecure-skip-tls-verify": True}, {"token": "secret"}),
        ({}, {"username": "u", "password": "p"}),
    ],
)
async def test_what_is_not_plain_is_read_by_the_official_client(
    tmp_path: Path, authority: Path, cluster: dict[str, Any], user: dict[str, Any]
) -> None:
    whole = {"server": "https://127.0.0.1:1", **cluster}
    if not cluster.get("insecure-skip-tls-verify"):
        whole["certificate-authority"] = str(authority / "ca.crt")
    path = kubeconfig(tmp_path / "config", whole, user)
    assert access._plain(path, None) is None
    found = await access.of_kubeconfig(path)
    assert await found.authorization() is not None
    options = dict(found.options)
    assert options.get("server_hostname") == cluster.get("tls-server-name")
    assert options.get("proxy") == cluster.get("proxy-url")
    assert found.ssl_context().check_hostname is not cluster.get("insecure-skip-tls-verify", False)


async def test_a_client_certificate_is_shown(tmp_path: Path, authority: Path) -> None:
    user = {
        "client-certificate-data": data(authority / "client.crt"),
        "client-key-data": data(authority / "client.key"),
    }
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority-data": data(authority / "ca.crt")}
    found = await access.of_kubeconfig(kubeconfig(tmp_path / "config", cluster, user))
    assert found.configuration is not None
    assert Path(str(found.configuration.cert_file)).read_bytes() == (authority / "client.crt").read_bytes()
    assert await found.authorization() is None


async def test_a_service_account_s_token_is_read_anew(
    tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (tmp_path / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())
    with pytest.raises(ClusterError, match="token"):
        access.of_service_account(tmp_path)
    (tmp_path / "token").write_text("one\n")
    found = access.of_service_account(tmp_path)
    assert (found.url, await found.authorization()) == ("https://[fd00::1]:6443", "Bearer one")
    (tmp_path / "token").write_text("two")
    assert await found.authorization() == "Bearer two"


@pytest.mark.parametrize("content", ["{", "[]", "current-context: x", ""])
async def test_no_kubeconfig_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ClusterError, match="no way to the API server") as caught:
        await access.of_kubeconfig(path)
    assert str(path) in str(caught.value)

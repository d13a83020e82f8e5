"""Where an API server is and how to be let in: from a kubeconfig, or from the service account of the pod we run in.

The kubeconfigs of labs and service accounts, an authority and a token, are read here, because importing the official
client takes longer than all the rest of an agent; a kubeconfig with anything else in it is read by the official client.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from egresslab.errors import ClusterError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLAIN_CLUSTER = {"server", "certificate-authority", "certificate-authority-data"}
PLAIN_USER = {"token"}

Authorization = Callable[[], Awaitable[str | None]]
"""The Authorization header, asked for before every request, since tokens are replaced; None: none."""


@dataclass(frozen=True, slots=True)
class Access:
    """`authority` is PEM, without it the machine's own authorities count; `options` go with each request of aiohttp.

    `configuration` is the same for the official client, made by it where we could not.
    """

    url: str
    authorization: Authorization
    authority: str | None = None
    context: ssl.SSLContext | None = None
    options: tuple[tuple[str, Any], ...] = ()
    configuration: Configuration | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """For the connection."""
        return self.context or ssl.create_default_context(cadata=self.authority)

    async def official(self) -> Configuration:
        """For the parts of the official client that we use: leader election, streams."""
        from kubernetes.aio.client import Configuration

        if self.configuration is not None:
            return self.configuration
        configuration = Configuration(
            host=self.url, ca_cert_data=self.authority, client_session_kwargs={"trust_env": False}
        )

        async def refresh(_: Configuration) -> None:
            configuration.api_key["BearerToken"] = await self.authorization() or ""

        await refresh(configuration)
        configuration.refresh_api_key_hook = refresh
        return configuration


def with_token(url: str, authority: str, token: str) -> Access:
    """With a token that stays as it is."""

    async def authorization() -> str:
        return f"Bearer {token}"

    return Access(url, authorization, authority)


def of_service_account(directory: Path = SERVICE_ACCOUNT) -> Access:
    """Of the pod we run in (Kubernetes, "Accessing the API from a Pod"); raises `ClusterError` outside of any."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise _no_way("service account", "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    file = directory / "token"

    async def authorization() -> str:
        return f"Bearer {file.read_text().strip()}"

    try:
        authority = (directory / "ca.crt").read_text()
        file.read_text()
    except OSError as error:
        raise _no_way("service account", error) from error
    return Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", authorization, authority)


async def of_kubeconfig(path: Path, context: str | None = None) -> Access:
    """Of a kubeconfig's context (absent: the current one); raises `ClusterError` when the file is unusable."""
    try:
        return _plain(path, context) or await _official(path, context)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _no_way(str(path), error) from error


def _plain(path: Path, name: str | None) -> Access | None:
    """None when the official client has to read it."""
    content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        context = _named(content, "contexts", name or content["current-context"])["context"]
        cluster = _named(content, "clusters", context["cluster"])["cluster"]
        user = _named(content, "users", context["user"])["user"]
        url, token = str(cluster["server"]), str(user["token"])
    except (KeyError, TypeError, StopIteration):
        return None
    if not url.startswith("https://") or set(user) - PLAIN_USER or set(cluster) - PLAIN_CLUSTER:
        return None
    if "certificate-authority-data" in cluster:
        return with_token(url, b64decode(cluster["certificate-authority-data"]).decode(), token)
    if "certificate-authority" in cluster:
        return with_token(url, (path.parent / cluster["certificate-authority"]).read_text(), token)
    return None


def _named(content: Any, kind: str, name: str) -> Any:
    return next(entry for entry in content[kind] if entry["name"] == name)


async def _official(path: Path, context: str | None) -> Access:
    from kubernetes.aio.client import ApiClient, Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config

    # No proxies and no .netrc: looking those up would send every request through a thread.
    configuration = Configuration(client_session_kwargs={"trust_env": False})
    try:
        await load_kube_config(config_file=str(path), context=context, client_configuration=configuration)
    except (ConfigException, TypeError, AttributeError, LookupError) as error:
        raise _no_way(str(path), f"not a kubeconfig ({error})") from error

    async def authorization() -> str | None:
        token = await configuration.get_api_key_with_prefix("BearerToken")
        return token or (configuration.get_basic_auth_token() if configuration.username else None)

    options = {
        "proxy": configuration.proxy,
        "proxy_headers": configuration.proxy_headers,
        "server_hostname": configuration.tls_server_name,
    }
    given = tuple((name, value) for name, value in options.items() if value)
    client = ApiClient(configuration)
    tls = client.rest_client.ssl_context
    await client.close()
    return Access(configuration.host, authorization, None, tls, given, configuration)


def _no_way(object: str, why: object) -> ClusterError:
    return ClusterError(
        f"no way to the API server: {why}",
        object=object,
        fix="bring a lab up with `egresslab up`, or name a kubeconfig",
    )

"""Puts a pod's node on the pod as the label `node`, so that a policy can mean the pods of one node by podSelector.

An admission webhook on the binding of pods (which is when a scheduler says where a pod goes, and whose labels the API
server copies to the pod) and on pods that are made with a node. It only ever adds that label, and allows everything:
while nobody answers, pods come without it (`failurePolicy: Ignore`).

It listens on the loopback of the API server's node. Its key never leaves this process: each start makes a new one, and
tells the API server its certificate through the one webhook configuration that it may change.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from egresslab.api.connection import Api, ApiError, PatchType, Unreachable
from egresslab.api.resources import Object, Resource

logger = logging.getLogger(__name__)

LABEL = "node"
NAME = "egresslab-pod-node"
ADDRESS, PORT = IPv4Address("127.0.0.1"), 9443
CONFIGURATIONS = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
LONGEST_BODY = 4 * 1024 * 1024
VALIDITY = timedelta(days=3650)
RETRY_S = 2.0


def node_of(obj: Object) -> str | None:
    """The node that a Pod or a Binding names."""
    if obj.get("kind") == "Binding":
        name: str | None = (obj.get("target") or {}).get("name")
        return name
    return (obj.get("spec") or {}).get("nodeName")


def patch(obj: Object) -> list[Object]:
    """JSON patch (RFC 6902) that adds the label; empty where there is no node, or a label already."""
    node, labels = node_of(obj), (obj.get("metadata") or {}).get("labels")
    if not node or LABEL in (labels or {}):
        return []
    if labels is None:
        return [{"op": "add", "path": "/metadata/labels", "value": {LABEL: node}}]
    return [{"op": "add", "path": f"/metadata/labels/{LABEL}", "value": node}]


def review(body: Any) -> Object:
    """The answer to an AdmissionReview (admission.k8s.io/v1); raises `ValueError` for anything else."""
    request = body.get("request") if isinstance(body, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("object"), dict):
        raise ValueError("not an AdmissionReview with an object")
    response: Object = {"uid": request.get("uid", ""), "allowed": True}
    if changes := patch(request["object"]):
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(changes)).decode()}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


async def _answer(request: web.Request) -> web.Response:
    try:
        answer = review(orjson.loads(await request.read()))
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _certificate() -> tuple[bytes, ssl.SSLContext]:
    """A certificate for ADDRESS that vouches for itself, and a context that serves it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ADDRESS)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    public = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # The ssl module reads keys from files alone; this one is private and gone at once.
    with tempfile.NamedTemporaryFile(prefix="webhook-") as file:
        file.write(private + public)
        file.flush()
        context.load_cert_chain(file.name)
    return public, context


async def _announce(api: Api, certificate: bytes) -> None:
    """Tell the API server which certificate to expect; where there is no configuration, nobody will call."""
    path = "/webhooks/0/clientConfig/caBundle"
    change = [{"op": "add", "path": path, "value": base64.b64encode(certificate).decode()}]
    while True:
        try:
            await api.patch(CONFIGURATIONS, NAME, change, patch_type=PatchType.JSON)
            return
        except ApiError as error:
            logger.info("webhook %s: not announced: %s", NAME, error)
            if error.status in (403, 404):
                return
        except Unreachable as error:
            logger.info("webhook %s waits: %s", NAME, error)
        await asyncio.sleep(RETRY_S)


def _listen(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(ADDRESS), port))
    except OSError as error:
        # Another copy of the operator on this node serves it.
        logger.info("webhook %s: %s port %d: %s", NAME, ADDRESS, port, error.strerror)
        listener.close()
        return None
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serve_webhook(api: Api, port: int = PORT) -> AsyncIterator[None]:
    """Serve the webhook while the context is open."""
    listener = _listen(port)
    if listener is None:
        yield
        return
    certificate, context = _certificate()
    application = web.Application(client_max_size=LONGEST_BODY)
    application.router.add_post("/", _answer)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.2)
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=context).start()
    announcing = asyncio.create_task(_announce(api, certificate), name="announce the webhook")
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
        await runner.cleanup()

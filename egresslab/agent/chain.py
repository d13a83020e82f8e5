"""What our CNI plug-in hands over and is answered: the specification's words, parsed and rendered.

The plug-in is the last of a chain, so its input holds the result of those before it, which is also its answer: it adds
nothing to a pod but the certainty that the pod may send. Source: CNI specification, sections 2, 4 and 5, and the keys
that Kubernetes' runtimes put into CNI_ARGS.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

IPAddress = IPv4Address | IPv6Address
MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the API's image of a static pod: the UID by which the kubelet and its runtime know it."""


class Code(IntEnum):
    """The specification's error codes that are used here."""

    INVALID_ENVIRONMENT = 4
    UNREADABLE = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN_LATER = 11


class ChainError(ValueError):
    """What was handed over makes no sense; `code` says in which respect."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's sandbox as the plug-ins before ours made it. `uid` is empty where the runtime does not tell it."""

    namespace: str
    name: str
    uid: str
    container: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the plug-in. `attachment` is None for a sandbox that is none of Kubernetes'."""

    command: str
    version: str
    attachment: Attachment | None
    result: Mapping[str, Any] | None
    """That of the plug-ins before ours, in the input's version."""

    @classmethod
    def parse(cls, body: bytes) -> Call:
        """From variables ended by zero bytes, an empty one, and the input; raises `ChainError`."""
        head, separator, text = body.partition(b"\0\0")
        variables = dict(
            line.partition("=")[::2] for line in head.decode(errors="replace").split("\0") if separator and line
        )
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise ChainError(Code.UNREADABLE, f"the network configuration is not JSON: {error}") from error
        result = data.get("prevResult")
        if variables.get("CNI_COMMAND") == "ADD" and not isinstance(result, dict):
            message = "there is no prevResult: the plug-in egresslab has to come after those that give addresses"
            raise ChainError(Code.INVALID_CONFIGURATION, message)
        kept = result if isinstance(result, dict) else None
        return cls(variables.get("CNI_COMMAND", ""), str(data.get("cniVersion") or ""), _pod(variables, kept), kept)

    def answer(self) -> bytes:
        """Success: what the plug-ins before ours said."""
        if self.command != "ADD" or self.result is None:
            return b""
        return json.dumps({"cniVersion": self.version, **self.result} if self.version else self.result).encode()


OnCall = Callable[[Call], Awaitable[None]]
"""Returns when what is asked for is so; raises `DatapathError` when it will not be in time."""


def refusal(version: str, code: Code, message: str, details: str = "") -> bytes:
    """The specification's error object."""
    said = {"cniVersion": version or "1.0.0", "code": int(code), "msg": f"egresslab: {message}"}
    return json.dumps({**said, "details": details} if details else said).encode()


def _pod(variables: Mapping[str, str], result: Mapping[str, Any] | None) -> Attachment | None:
    arguments = dict(part.partition("=")[::2] for part in variables.get("CNI_ARGS", "").split(";") if part)
    namespace, name = arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", "")
    if not namespace or not name:
        return None
    try:
        addresses = tuple(dict.fromkeys(_addresses(result or {}, variables.get("CNI_IFNAME", ""))))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ChainError(Code.INVALID_CONFIGURATION, f"prevResult is not a result: {error!r}") from error
    uid, container = arguments.get("K8S_POD_UID", ""), variables.get("CNI_CONTAINERID", "")
    return Attachment(namespace, name, uid, container, addresses)


def _addresses(result: Mapping[str, Any], interface: str) -> Iterator[IPAddress]:
    """The addresses of the pod's own interface, which are those that the kubelet will publish."""
    interfaces = result.get("interfaces") or []
    for config in result.get("ips") or ():
        index = config.get("interface")
        if index is None or interfaces[index].get("name") == interface:
            yield ip_interface(config["address"]).ip
    for family in ("ip4", "ip6"):  # Versions 0.1.0 and 0.2.0.
        if result.get(family):
            yield ip_interface(result[family]["ip"]).ip

"""x-kubernetes-validations: CEL rules on values, with the functions that Kubernetes adds for addresses.

A rule that mentions oldSelf is a transition rule and is skipped where there is no old value. The expression language is
the cel package's; optional types and Kubernetes' cost limits are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from egresslab.api.expressions import cel
from egresslab.api.faults import OMITTED, FaultKind, FieldFault
from egresslab.api.formats import cidr_version, ip_version, is_cidr, is_ip

_REASONS = {
    "FieldValueInvalid": FaultKind.INVALID,
    "FieldValueForbidden": FaultKind.FORBIDDEN,
    "FieldValueRequired": FaultKind.REQUIRED,
    "FieldValueDuplicate": FaultKind.DUPLICATE,
}
EVALUATION = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError)
"""What the cel package raises for an expression that has no value."""
_OLD = re.compile(r"\boldSelf\b")


def _ip(text: str) -> str:
    return str(ip_address(text))


def _cidr(text: str) -> str:
    return str(ip_interface(text))


def _masked(text: str) -> str:
    return str(ip_network(text, strict=False))


def _contains_ip(network: str, address: str) -> bool:
    return ip_address(address) in ip_network(network, strict=False)


def _contains_cidr(network: str, inner: str) -> bool:
    outer, part = ip_network(network, strict=False), ip_network(inner, strict=False)
    return outer.version == part.version and part.subnet_of(outer)  # type: ignore[arg-type]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isIP": is_ip,
    "isCIDR": is_cidr,
    "ip": _ip,
    "cidr": _cidr,
    "family": lambda text: cidr_version(text) if "/" in text else ip_version(text),
    "masked": _masked,
    "prefixLength": lambda text: ip_interface(text).network.prefixlen,
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "isUnspecified": lambda text: ip_address(text).is_unspecified,
    "isLoopback": lambda text: ip_address(text).is_loopback,
    "isLinkLocalMulticast": lambda text: ip_address(text).is_multicast,
    "isGlobalUnicast": lambda text: not (ip_address(text).is_multicast or ip_address(text).is_unspecified),
}
"""Kubernetes' IP and CIDR libraries; addresses are text here, so methods are functions of it (`ip(x).family()`)."""


class Rule:
    """One compiled rule; raises ValueError when the expression does not parse."""

    __slots__ = ("_message_program", "_program", "message", "path", "reason", "text", "transition")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.text = str(raw["rule"]).strip()
        self.message = str(raw.get("message") or f"failed rule: {self.text}").strip()
        self.reason = _REASONS.get(str(raw.get("reason") or ""), FaultKind.INVALID)
        self.path = str(raw.get("fieldPath") or "")
        self.transition = bool(_OLD.search(self.text)) and not raw.get("optionalOldSelf")
        self._program = cel.compile(self.text)
        expression = raw.get("messageExpression")
        self._message_program = cel.compile(expression) if expression else None

    def check(self, value: Any, old: Any, path: str) -> FieldFault | None:
        """A fault if the rule does not hold for the value."""
        if self.transition and old is None:
            return None
        variables = {"self": value, "oldSelf": old}
        context = cel.Context(variables=variables, functions=FUNCTIONS)
        where = path + self.path
        try:
            if self._program.execute(context) is True:
                return None
        except EVALUATION as error:
            return FieldFault(where, FaultKind.INVALID, OMITTED, f"rule evaluation error: {error}: {self.text}")
        shown = OMITTED if isinstance(value, dict | list) else value
        return FieldFault(where, self.reason, shown, self._words(context))

    def _words(self, context: cel.Context) -> str:
        if self._message_program is not None:
            try:
                return str(self._message_program.execute(context))
            except EVALUATION:
                return self.message
        return self.message

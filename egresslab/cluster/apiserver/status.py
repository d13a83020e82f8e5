"""Refusals as Kubernetes words them: every error answer is a `Status` object with code, reason, message and details.

Clients decide by code and reason and people read the message, so all three follow apimachinery's `api/errors`. Nothing
here decides whether to refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from egresslab.api.faults import FieldFault

ELSEWHERE = "not part of the embedded cluster; use --environment kind"


class Refusal(Exception):
    """An error answer: HTTP `code`, Kubernetes' `reason`, and the optional `details` of the Status object."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The Status object."""
        answer: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        answer |= {"message": self.message, "reason": self.reason}
        if self.details:
            answer["details"] = self.details
        return answer | {"code": self.code}


def _qualified(group: str, name: str) -> str:
    return f"{name}.{group}" if group else name


def _details(group: str, kind: str, name: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def not_found(group: str, plural: str, name: str) -> Refusal:
    """404: no object of that name."""
    return Refusal(404, "NotFound", f'{_qualified(group, plural)} "{name}" not found', _details(group, plural, name))


def not_served(what: str = "") -> Refusal:
    """404: a path that is not served, in words that say where to find it."""
    where = f"{what}: {ELSEWHERE}" if what else ELSEWHERE
    return Refusal(404, "NotFound", f"the server could not find the requested resource ({where})", {})


def already_exists(group: str, plural: str, name: str) -> Refusal:
    """409 AlreadyExists."""
    message = f'{_qualified(group, plural)} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, _details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str | None = None) -> Refusal:
    """409 Conflict: the object changed since the client read it."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {_qualified(group, plural)} "{name}": {why}'
    return Refusal(409, "Conflict", message, _details(group, plural, name))


def invalid(group: str, kind: str, name: str, faults: Sequence[FieldFault]) -> Refusal:
    """422 Invalid, with one cause a field."""
    texts = list(dict.fromkeys(str(fault) for fault in faults))
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    causes = [{"reason": fault.kind.cause, "message": fault.body, "field": fault.field} for fault in faults]
    details = {"name": name, "group": group, "kind": kind, "causes": causes}
    details = {key: value for key, value in details.items() if value}
    return Refusal(422, "Invalid", f'{_qualified(group, kind)} "{name}" is invalid: {listed}', details)


def bad_request(message: str) -> Refusal:
    """400 BadRequest."""
    return Refusal(400, "BadRequest", message)


def unauthorized() -> Refusal:
    """401: no token, or one that we do not know."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, plural: str, name: str, why: str) -> Refusal:
    """403 Forbidden."""
    subject = f'{_qualified(group, plural)} "{name}"' if name else _qualified(group, plural)
    return Refusal(403, "Forbidden", f"{subject} is forbidden: {why}", _details(group, plural, name))


def method_not_allowed() -> Refusal:
    """405: the resource does not do this verb."""
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def gone(version: int, oldest: int) -> Refusal:
    """410 Expired: history before `oldest` is compacted."""
    return Refusal(410, "Expired", f"too old resource version: {version} ({oldest})")


def too_large(version: int, current: int) -> Refusal:
    """504 with the cause that makes client-go wait: a resource version from the future."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    details = {"causes": causes, "retryAfterSeconds": 1}
    return Refusal(504, "Timeout", f"Too large resource version: {version}, current: {current}", details)


def entity_too_large(limit: int) -> Refusal:
    """413: the body is larger than `limit` bytes."""
    return Refusal(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unsupported_media_type(found: str, supported: Sequence[str]) -> Refusal:
    """415: a body in a format that we do not read."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    return Refusal(415, "UnsupportedMediaType", f"{message} (got {found or 'none'})")


def not_acceptable() -> Refusal:
    """406: none of the formats that the client takes."""
    return Refusal(406, "NotAcceptable", "only the following media types are accepted: application/json")


def timeout(message: str) -> Refusal:
    """504: something we depend on did not answer in time."""
    return Refusal(504, "Timeout", message)


def service_unavailable(message: str) -> Refusal:
    """503."""
    return Refusal(503, "ServiceUnavailable", message)

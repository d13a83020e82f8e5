"""What is wrong with one field, in Kubernetes' words (apimachinery's `field.Error`), for the API server and offline
lint.

A fault says where and what; whether it refuses an object is for whoever asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any


class FaultKind(Enum):
    """Kubernetes' word in a message, and its reason in a Status' causes."""

    REQUIRED = ("Required value", "FieldValueRequired")
    INVALID = ("Invalid value", "FieldValueInvalid")
    TYPE_INVALID = ("Invalid value", "FieldValueTypeInvalid")
    DUPLICATE = ("Duplicate value", "FieldValueDuplicate")
    UNSUPPORTED = ("Unsupported value", "FieldValueNotSupported")
    FORBIDDEN = ("Forbidden", "FieldValueForbidden")
    TOO_LONG = ("Too long", "FieldValueTooLong")
    TOO_MANY = ("Too many", "FieldValueTooMany")
    NOT_FOUND = ("Not found", "FieldValueNotFound")

    @property
    def word(self) -> str:
        """As it stands in messages."""
        return self.value[0]

    @property
    def cause(self) -> str:
        """As it stands in `details.causes[].reason`."""
        return self.value[1]


class _Omitted:
    """Marks that a message does not show the value."""


OMITTED = _Omitted()
_SILENT = (FaultKind.REQUIRED, FaultKind.FORBIDDEN, FaultKind.TOO_LONG)


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault; `field` is the path (`spec.destinationCIDRs[0]`), `value` what stands there."""

    field: str
    kind: FaultKind
    value: Any = OMITTED
    detail: str = ""

    @property
    def body(self) -> str:
        """The message without the path."""
        text = self.kind.word
        if self.kind not in _SILENT and self.value is not OMITTED:
            text += f": {_shown(self.value)}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.field}: {self.body}" if self.field else self.body


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def required(field: str, detail: str = "") -> FieldFault:
    """A field that must be there and is not."""
    return FieldFault(field, FaultKind.REQUIRED, detail=detail)


def invalid(field: str, value: Any, detail: str) -> FieldFault:
    """A value that breaks a rule."""
    return FieldFault(field, FaultKind.INVALID, value, detail)


def unsupported(field: str, value: Any, choices: list[str]) -> FieldFault:
    """A value outside of an enumeration."""
    listed = ", ".join(_shown(choice) for choice in choices)
    return FieldFault(field, FaultKind.UNSUPPORTED, value, f"supported values: {listed}")


def forbidden(field: str, detail: str) -> FieldFault:
    """A field that may not be set, or not be changed this way."""
    return FieldFault(field, FaultKind.FORBIDDEN, detail=detail)

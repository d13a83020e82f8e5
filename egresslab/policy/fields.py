"""Reading fields out of decoded objects, so that every refusal names object, field, value and fix.

Whatever a user can write ends in a value or in a `PolicyError`; nothing else is raised here. What was not asked for is
remembered in `leftovers`, for those who want to warn about misspelt fields.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

from egresslab.api.selectors import LabelSelector, SelectorError, parse_selector
from egresslab.errors import PolicyError
from egresslab.policy.model import Address, Cidr

_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:]*")
MAX_NAME = 253
SHOWN = 100
"""Characters of a value that an error repeats."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
E_ = TypeVar("E_", bound=StrEnum)


class Fields:
    """One object inside a document: `subject` is its `Kind/name`, `path` where we are in it."""

    def __init__(self, subject: str, path: str, value: Mapping[Any, Any], leftovers: list[str] | None = None) -> None:
        self.subject = subject
        self.path = path
        self.leftovers: list[str] = [] if leftovers is None else leftovers
        self._value = value
        self._read: set[str] = set()

    def refusal(self, name: str, message: str, *, fix: str, value: object = None) -> PolicyError:
        """The error about one field, to be raised."""
        return PolicyError(message, object=self.subject, field=self._at(name), value=shown(value), fix=fix)

    def raw(self, name: str) -> Any:
        """The field as decoded; None when absent or null, which Kubernetes does not tell apart."""
        self._read.add(name)
        return self._value.get(name)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.refusal(name, "must be a string", value=value, fix=in_quotes(value))
        if not printable(value):
            raise self.refusal(name, "has characters that are no text", value=value, fix="write plain text")
        return value

    def required_text(self, name: str, fix: str) -> str:
        """A string that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise self.refusal(name, "is required", fix=fix)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refusal(name, "must be true or false", value=value, fix="write true or false, without quotes")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refusal(name, "must be a whole number within bounds", value=value, fix=f"use {low} to {high}")
        return value

    def one_of(self, name: str, kinds: type[E_], default: E_ | None = None) -> E_:
        """One word out of an enumeration."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        for kind in kinds:
            if value == kind.value and isinstance(value, str):
                return kind
        raise self.refusal(name, "is not one of the words known here", value=value, fix=f"use {' or '.join(kinds)}")

    def child(self, name: str) -> Fields | None:
        """A nested object, or None."""
        value = self.raw(name)
        return None if value is None else self._nested(name, value)

    def items(self, name: str) -> Iterator[Fields]:
        """The objects of a list, none when it is absent."""
        for index, value in enumerate(self.list(name)):
            yield self._nested(f"{name}[{index}]", value)

    def list(self, name: str) -> list[Any]:
        """A list, empty when absent."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.refusal(name, "must be a list", value=value, fix="start each item with '- '")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings that are not empty."""
        values = self.list(name)
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value or not printable(value):
                raise self.refusal(f"{name}[{index}]", "must be a string", value=value, fix="put it in quotes")
        return tuple(values)

    def string_map(self, name: str) -> dict[str, str]:
        """An object of strings, as labels are; empty when absent."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.refusal(name, "must be an object of names and values", value=value, fix="write {name: value}")
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                written = str(text).lower() if isinstance(text, bool) else text
                raise self.refusal(
                    f"{name}.{key}", "must be a string", value=text, fix=f'put it in quotes: "{written}"'
                )
        return dict(value)

    def selector(self, name: str) -> LabelSelector | None:
        """A label selector, or None when absent."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            return parse_selector(value)
        except SelectorError as error:
            at = f"{name}.{error.field}" if error.field else name
            raise PolicyError(
                error.message, object=self.subject, field=self._at(at), value=shown(error.value), fix=error.fix
            ) from error

    def address(self, name: str) -> Address | None:
        """An IP address, or None when absent or empty."""
        value = self.raw(name)
        if value is None or value == "":
            return None
        return self._address(name, value)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """A list of IP addresses."""
        return tuple(self._address(f"{name}[{index}]", value) for index, value in enumerate(self.list(name)))

    def cidrs(self, name: str) -> tuple[Cidr, ...]:
        """A list of CIDRs; host bits are kept in the text, as Cilium keeps them, and masked in the network."""
        return tuple(self._cidr(f"{name}[{index}]", value) for index, value in enumerate(self.list(name)))

    def cidr(self, name: str) -> Cidr | None:
        """A CIDR, or None when absent or empty."""
        value = self.raw(name)
        return None if value is None or value == "" else self._cidr(name, value)

    def close(self, *, strict: bool = False) -> None:
        """Call when all fields were asked for: what is left over is noted, or refused."""
        for name in self._value:
            if name not in self._read:
                if strict:
                    raise self.refusal(
                        str(name), "unknown field", fix=f"fields here are {', '.join(sorted(self._read))}"
                    )
                self.leftovers.append(self._at(str(name)))

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _nested(self, name: str, value: object) -> Fields:
        if not isinstance(value, Mapping):
            raise self.refusal(name, "must be an object", value=value, fix="indent its fields below it")
        return Fields(self.subject, self._at(name), value, self.leftovers)

    def _address(self, name: str, value: object) -> Address:
        if isinstance(value, str) and "%" not in value:
            try:
                address = ip_address(value)
            except ValueError:
                pass
            else:
                inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
                if inner is None:
                    return address
                raise self.refusal(name, "an IPv4 address written as IPv6", value=value, fix=f"write {inner}")
        raise self.refusal(
            name, "not an IP address", value=value, fix="write an address like 192.168.60.200 or fd00::200"
        )

    def _cidr(self, name: str, value: object) -> Cidr:
        if isinstance(value, str) and "%" not in value:
            text, slash, length = value.partition("/")
            try:
                address = ip_address(text)
            except ValueError:
                raise self.refusal(
                    name, "not a CIDR", value=value, fix="write a network like 10.0.0.0/8 or 2001:db8::/32"
                ) from None
            if not slash:
                whole = 32 if address.version == 4 else 128
                raise self.refusal(name, "a CIDR needs a prefix length", value=value, fix=f"write {value}/{whole}")
            if _PREFIX_LENGTH.fullmatch(length) and int(length) <= address.max_prefixlen:
                return Cidr(ip_network((address, int(length)), strict=False), f"{address}/{length}")
        raise self.refusal(name, "not a CIDR", value=value, fix="write a network like 10.0.0.0/8 or 2001:db8::/32")


def shown(value: object) -> object:
    """A value as an error may show it: short, whatever it is; YAML's aliases make small texts into huge objects."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else _SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def in_quotes(value: object) -> str:
    """The fix for a scalar that YAML read as something other than text."""
    if isinstance(value, bool):
        return f'put it in quotes: "{str(value).lower()}"'
    return f'put it in quotes: "{value}"' if isinstance(value, int | float) else "write a string"


def printable(text: str) -> bool:
    """Whether text can be written out: YAML and JSON can spell half a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def open_object(obj: object, kind: str) -> tuple[Fields, Fields]:
    """The object and its metadata, once it is known to be an object with a name."""
    if not isinstance(obj, Mapping):
        fix = "check the indentation of the document"
        raise PolicyError("must be an object", object=kind, value=shown(obj), fix=fix)
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        message, fix = "must have a name", "write metadata.name: letters, digits, '-' and '.', a string"
        raise PolicyError(message, object=kind, field="metadata.name", value=shown(name), fix=fix)
    fields = Fields(f"{kind}/{name}", "", obj)
    nested = fields.child("metadata")
    assert nested is not None  # it gave us the name
    return fields, nested

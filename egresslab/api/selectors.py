"""Label selectors: parsed once, then matched many times, for decisions about egress and for the cluster's controllers.

Semantics are Kubernetes' ("Labels and Selectors"): requirements are ANDed, NotIn and DoesNotExist hold for a label that
is absent, an empty selector matches everything. This module never guesses: what is not a selector raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from egresslab.errors import EgresslabError

_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SET_TERM = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUAL_TERM = re.compile(r"(?P<key>[^\s!=]+)\s*(?P<operator>==|=|!=)\s*(?P<value>\S*)")


class SelectorError(EgresslabError):
    """Not a label selector; `field` is the path inside the selector, None for the whole. There is always a fix."""

    def __init__(self, message: str, *, fix: str, field: str | None = None, value: object = None) -> None:
        super().__init__(message, field=field, value=value, fix=fix)


class Operator(StrEnum):
    """Operators of matchExpressions."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label; `values` is empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fulfil it."""
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values
        return (value is not None) is (self.operator is Operator.EXISTS)

    def __str__(self) -> str:
        if self.operator is Operator.IN or self.operator is Operator.NOT_IN:
            word = "in" if self.operator is Operator.IN else "notin"
            if word == "in" and len(self.values) == 1:
                return f"{self.key}={next(iter(self.values))}"
            return f"{self.key} {word} ({','.join(sorted(self.values))})"
        return self.key if self.operator is Operator.EXISTS else f"!{self.key}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all hold; none at all matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        # No all(): a generator costs more than the comparisons, and this runs for every pod and policy.
        for requirement in self.requirements:  # noqa: SIM110
            if not requirement.matches(labels):
                return False
        return True

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements)) or "everything"


EVERYTHING = LabelSelector()


def parse_selector(value: object) -> LabelSelector:
    """The selector in a decoded `LabelSelector` object (`matchLabels`, `matchExpressions`).

    Raises `SelectorError` for anything that the API server or apimachinery's LabelSelectorAsSelector refuses.
    """
    if not isinstance(value, Mapping):
        raise SelectorError(
            "must be a label selector", value=value, fix="write matchLabels: {…} or matchExpressions: […] below it"
        )
    for name in value:
        if name not in ("matchLabels", "matchExpressions"):
            raise SelectorError(
                "unknown field", field=str(name), fix="a selector has matchLabels and matchExpressions only"
            )
    requirements = [
        Requirement(_key(key, f"matchLabels.{key}"), Operator.IN, frozenset((_value(text, f"matchLabels.{key}"),)))
        for key, text in _mapping(value.get("matchLabels"), "matchLabels").items()
    ]
    expressions = value.get("matchExpressions")
    if expressions is not None and not isinstance(expressions, list):
        raise SelectorError(
            "must be a list", field="matchExpressions", value=expressions, fix="start each item with '- key: …'"
        )
    for index, expression in enumerate(expressions or ()):
        requirements.append(_expression(expression, f"matchExpressions[{index}]"))
    return _ordered(requirements)


def parse_query(text: str) -> LabelSelector:
    """The selector in a `labelSelector` query parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k`."""
    requirements = []
    for term in _terms(text):
        if match := _SET_TERM.fullmatch(term):
            values = frozenset(_value(part.strip(), term) for part in match["values"].split(","))
            operator = Operator.IN if match["operator"] == "in" else Operator.NOT_IN
            requirements.append(Requirement(_key(match["key"], term), operator, values))
        elif match := _EQUAL_TERM.fullmatch(term):
            operator = Operator.NOT_IN if match["operator"] == "!=" else Operator.IN
            values = frozenset((_value(match["value"], term),))
            requirements.append(Requirement(_key(match["key"], term), operator, values))
        elif term.startswith("!"):
            requirements.append(Requirement(_key(term[1:].strip(), term), Operator.DOES_NOT_EXIST))
        else:
            requirements.append(Requirement(_key(term, term), Operator.EXISTS))
    return _ordered(requirements)


def _ordered(requirements: list[Requirement]) -> LabelSelector:
    """Equal selectors compare equal however they were written, and the cheapest to refute comes first."""
    unique = set(requirements)
    return LabelSelector(
        tuple(sorted(unique, key=lambda item: (item.operator is not Operator.IN, item.key, item.operator, str(item))))
    )


def _terms(text: str) -> list[str]:
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            terms.append(text[start:position].strip())
            start = position + 1
    terms.append(text[start:].strip())
    if terms == [""]:
        return []
    if "" in terms:
        raise SelectorError("empty term", value=text, fix="remove the surplus comma")
    return terms


def _expression(expression: object, field: str) -> Requirement:
    if not isinstance(expression, Mapping):
        raise SelectorError(
            "must be an object", field=field, value=expression, fix="write key, operator and, with In and NotIn, values"
        )
    for name in expression:
        if name not in ("key", "operator", "values"):
            raise SelectorError("unknown field", field=f"{field}.{name}", fix="use key, operator and values")
    key = _key(expression.get("key"), f"{field}.key")
    try:
        operator = Operator(str(expression.get("operator")))
    except ValueError:
        raise SelectorError(
            "unknown operator",
            field=f"{field}.operator",
            value=expression.get("operator"),
            fix="use In, NotIn, Exists or DoesNotExist",
        ) from None
    raw = expression.get("values")
    if raw is not None and not isinstance(raw, list):
        raise SelectorError("must be a list of strings", field=f"{field}.values", value=raw, fix="write [a, b]")
    values = frozenset(_value(item, f"{field}.values[{index}]") for index, item in enumerate(raw or ()))
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    if takes_values and not values:
        raise SelectorError(f"{operator} needs at least one value", field=f"{field}.values", fix="list the values")
    if values and not takes_values:
        raise SelectorError(
            f"{operator} takes no values", field=f"{field}.values", value=sorted(values), fix="remove them, or use In"
        )
    return Requirement(key, operator, values)


def _mapping(value: object, field: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SelectorError(
            "must be an object of label names and values", field=field, value=value, fix="write {name: value}"
        )
    return value


def _key(key: object, field: str) -> str:
    if isinstance(key, str):
        prefix, slash, name = key.rpartition("/")
        prefix_ok = not slash or (len(prefix) <= 253 and _PREFIX.fullmatch(prefix))
        if prefix_ok and len(name) <= 63 and _NAME.fullmatch(name):
            return key
    raise SelectorError(
        "not a label name", field=field, value=key, fix="use [prefix/]name with letters, digits, '-', '_' and '.'"
    )


def _value(value: object, field: str) -> str:
    if isinstance(value, str):
        if len(value) <= 63 and _VALUE.fullmatch(value):
            return value
        fix = "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
        raise SelectorError("not a label value", field=field, value=value, fix=fix)
    written = str(value).lower() if isinstance(value, bool) else value
    fix = f'put it in quotes: "{written}"' if isinstance(value, bool | int | float) else "write a string"
    raise SelectorError("label values are strings", field=field, value=value, fix=fix)

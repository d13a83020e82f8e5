"""Which objects a list, watch or deletecollection is about: namespace, labelSelector and fieldSelector together.

Selections look at an entry's index only, so choosing among thousands of objects parses none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from egresslab.api.selectors import EVERYTHING, LabelSelector, SelectorError, parse_query
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.store import Entry

_EVENT_NAMES = {"regarding": "involvedObject", "reportingController": "reportingComponent"}


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One term of a field selector."""

    path: str
    equal: bool
    value: str


@dataclass(frozen=True, slots=True)
class Selection:
    """A namespace ("" for all), label requirements and field terms; all must hold."""

    namespace: str = ""
    labels: LabelSelector = EVERYTHING
    fields: tuple[FieldTerm, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is left out but other namespaces."""
        return not self.fields and not self.labels.requirements

    @property
    def name(self) -> str | None:
        """The one object's name, if the selection asks for it by name."""
        for term in self.fields:
            if term.path == "metadata.name" and term.equal:
                return term.value
        return None

    def matches(self, entry: Entry) -> bool:
        """Whether the entry is selected."""
        if self.namespace and entry.key[0] != self.namespace:
            return False
        for term in self.fields:
            if term.path == "metadata.name":
                found = entry.key[1]
            elif term.path == "metadata.namespace":
                found = entry.key[0]
            else:
                found = entry.fields.get(term.path, "")
            if (found == term.value) is not term.equal:
                return False
        return self.labels.matches(entry.labels)

    def filter(self) -> Callable[[Entry], bool] | None:
        """`matches`, or None when everything matches."""
        return None if self.whole and not self.namespace else self.matches


def parse(kind: ResourceType, namespace: str, query: Mapping[str, str]) -> Selection:
    """From query parameters; raises 400 for what is not a selector or names a field that cannot be selected."""
    try:
        labels = parse_query(query.get("labelSelector", ""))
    except SelectorError as error:
        raise status.bad_request(f"unable to parse requirement: {error.message} ({error.value!r})") from error
    terms = tuple(_term(kind, text) for text in query.get("fieldSelector", "").split(",") if text.strip())
    return Selection(namespace, labels, terms)


def _term(kind: ResourceType, text: str) -> FieldTerm:
    operator = next((each for each in ("!=", "==", "=") if each in text), None)
    if operator is None:
        raise status.bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    path, _, value = text.partition(operator)
    path = path.strip()
    head, dot, tail = path.partition(".")
    if kind.bucket == "events":
        path = _EVENT_NAMES.get(head, head) + dot + tail
    if path not in ("metadata.name", "metadata.namespace") and path not in kind.fields:
        raise status.bad_request(f"field label not supported: {path}")
    return FieldTerm(path, operator != "!=", value.strip())

"""Which resources are served right now: the built-in ones and those that CustomResourceDefinitions add.

It answers by place in the API (group, version, plural) and by group, for routing and discovery. It keeps no objects.
"""

from __future__ import annotations

from collections.abc import Iterable

from egresslab.cluster.apiserver.declarations import ABSENT, BUILT_IN, ResourceType


class Registry:
    """Resource types by place; custom ones are put and dropped by definition name."""

    def __init__(self, built_in: Iterable[ResourceType] = (*BUILT_IN, *ABSENT)) -> None:
        self._places: dict[tuple[str, str, str], ResourceType] = {}
        self._custom: dict[str, list[ResourceType]] = {}
        self.generation = 0
        for kind in built_in:
            self._places[kind.group, kind.version, kind.plural] = kind

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        """The type served there, if any."""
        return self._places.get((group, version, plural))

    def named(self, plural: str, group: str = "") -> ResourceType:
        """A type that is known to be served (any version); raises KeyError otherwise."""
        for kind in self._places.values():
            if (kind.group, kind.plural) == (group, plural):
                return kind
        raise KeyError(f"{plural}.{group}")

    def all(self) -> list[ResourceType]:
        """Every type, built-in ones first, in the order declared."""
        return list(self._places.values())

    def groups(self) -> dict[str, dict[str, list[ResourceType]]]:
        """Group -> version -> types, the core group being ""; built-in groups first, then the others by name, which is
        the order in which kubectl resolves a name that two groups use.
        """
        tree: dict[str, dict[str, list[ResourceType]]] = {}
        for kind in sorted(self._places.values(), key=lambda kind: kind.group if kind.custom else ""):
            tree.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
        return tree

    def put_custom(self, definition: str, kinds: list[ResourceType]) -> None:
        """Serve what a definition says, instead of what it said before."""
        self.drop_custom(definition)
        for kind in kinds:
            self._places[kind.group, kind.version, kind.plural] = kind
        self._custom[definition] = kinds

    def drop_custom(self, definition: str) -> list[ResourceType]:
        """Stop serving a definition's resources; returns what was served."""
        self.generation += 1
        dropped = self._custom.pop(definition, [])
        for kind in dropped:
            self._places.pop((kind.group, kind.version, kind.plural), None)
        return dropped

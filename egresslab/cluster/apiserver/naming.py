"""What the types of built-in kinds are called: in the official client, and in OpenAPI."""

from __future__ import annotations

import re

from egresslab.cluster.apiserver.declarations import ResourceType

PREFIX = "io.k8s.api."
_VERSION = re.compile(r"^(V\d[a-z0-9]*)?")
_GROUPED = {
    ("", "Event"): "CoreV1Event",
    ("events.k8s.io", "Event"): "EventsV1Event",
}


def model_name(kind: ResourceType) -> str:
    """The client's model for a built-in kind."""
    return _GROUPED.get((kind.group, kind.kind), f"{kind.version.capitalize()}{kind.kind}")


def component(model: str) -> str:
    """The name under which OpenAPI shows a model."""
    found = _VERSION.match(model)
    version = (found[0] if found else "") or "v1"
    return f"{PREFIX}{version.lower()}.{model.removeprefix(found[0] if found else '')}"


def models_of(component_name: str) -> tuple[str, str]:
    """What the model of a component may be called."""
    version, _, base = component_name.removeprefix(PREFIX).partition(".")
    return f"{version.capitalize()}{base}", base

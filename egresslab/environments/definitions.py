"""Where the declarative files of an environment are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from egresslab.errors import EnvironmentFailure

PACKAGE = Path(__file__).resolve().parents[1]
CONTROLLER_MANIFESTS = ("agent.yaml", "operator.yaml", "webhook.yaml")

try:
    _Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = yaml.CSafeLoader
except AttributeError:  # PyYAML without libyaml
    _Loader = yaml.SafeLoader


def definitions(environment: str) -> Path:
    """Directory of the topology, image table and manifests; raises `EnvironmentFailure` for a broken installation."""
    for base in (PACKAGE / "definitions", PACKAGE.parent / "environments"):
        if (base / environment).is_dir():
            return base / environment
    raise EnvironmentFailure(
        "the files that describe the environment are missing from the installation",
        object=f"environment {environment}",
        fix="install the package again: pip install --force-reinstall egresslab",
    )


def manifests(environment: str, *, bare: bool) -> list[dict[str, Any]]:
    """Everything that a new cluster is given; `bare`: without the egress controller and its kinds."""
    files = sorted((definitions(environment) / "manifests").glob("*.yaml"))
    if bare:
        return read_manifests(file for file in files if file.name not in CONTROLLER_MANIFESTS)
    return read_manifests([*files, *sorted((PACKAGE / "api" / "crds").glob("*.yaml"))])


def read_manifests(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All objects in the files, in their order; raises `EnvironmentFailure` naming the file that is broken."""
    objects: list[dict[str, Any]] = []
    for file in files:
        try:
            documents = list(yaml.load_all(file.read_text(), _Loader))
        except yaml.YAMLError as error:
            raise EnvironmentFailure(f"is not YAML: {error}", object=str(file)) from error
        objects += [document for document in documents if document]
    return objects

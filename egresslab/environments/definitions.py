"""Where the declarative files of an environment are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from egresslab.errors import EnvironmentFailure

PACKAGE = Path(__file__).resolve().parents[1]


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

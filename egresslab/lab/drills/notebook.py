"""A drill in a cell: `lab.drill("failover", mode="crash")` says what it does and shows what came of it."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from egresslab.environments.base import Environment
from egresslab.errors import LabError
from egresslab.lab.attachment import Attachment
from egresslab.lab.client import Client
from egresslab.lab.drills.breakages import Mode
from egresslab.lab.drills.drill import Drill, Kind, Plan
from egresslab.lab.drills.families import Family, agreed
from egresslab.lab.drills.result import DrillResult
from egresslab.lab.drills.scene import Addressing
from egresslab.lab.drills.sender import Pattern

CHOICES = {"mode": Mode, "addressing": Addressing}
PATTERN = {field.name for field in fields(Pattern)}
PLAN = {field.name for field in fields(Plan)} - {"kind", "pattern"}


class Lines:
    """Progress as lines of a cell, each with the time since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def step(self, text: str) -> None:
        """A new step begins."""
        print(f"{time.monotonic() - self._begun:5.1f} s  {text}", flush=True)

    def note(self, text: str) -> None:
        """Something worth saying within the step."""
        print(f"         {text}", flush=True)


def environment_of(place: Attachment | None) -> Environment | None:
    """Who can break nodes there; None for a cluster that only a kubeconfig is known of."""
    if place is None or place.environment not in ("netns", "vm"):
        return None
    # What breaks a lab goes by its record, whatever its nodes are made of.
    from egresslab.environments.netns.environment import NetnsEnvironment

    return NetnsEnvironment(place.lab)


def plan_of(kind: str, options: dict[str, Any]) -> Plan:
    """The plan that a cell asks for in words; `LabError` for a word that is not known."""
    wanted = dict(options)
    asked = _choice("family", wanted.pop("family"), Family) if "family" in wanted else None
    pattern = {name: wanted.pop(name) for name in list(wanted) if name in PATTERN}
    for name in wanted:
        if name not in PLAN:
            raise LabError("a drill has no such option", object="lab.drill", field=name,
                           fix=f"one of: {', '.join(sorted(PLAN | PATTERN | {'family'}))}")  # fmt: skip
    for name, choice in CHOICES.items():
        if name in wanted:
            wanted[name] = _choice(name, wanted[name], choice)
    given = {"virtual": wanted.pop("virtual", None), "target": pattern.get("target")}
    family, addresses = agreed(asked, {name: str(value) if value else None for name, value in given.items()})
    return Plan(
        kind=_choice("kind", kind, Kind),
        pattern=Pattern.over(family, **pattern),
        virtual=addresses.get("virtual"),
        **wanted,
    )


def _choice(name: str, value: str, choice: Any) -> Any:
    try:
        return choice(value)
    except ValueError as error:
        known = ", ".join(choice)
        raise LabError("is not known", object="lab.drill", field=name, value=value, fix=f"one of: {known}") from error


def run(client: Client, place: Attachment | None, kind: str, options: dict[str, Any]) -> DrillResult:
    """Do it, and return what the cell shows."""
    return Drill(client, environment_of(place), plan_of(kind, options), Lines()).run()

"""Where learners stand: of one, chapter by chapter; of many, which check fails most and which help is taken.

Pure counting over progress files and notebooks; it judges nobody by hints or solutions taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egresslab.lab import cells, locations
from egresslab.lab.display import Table
from egresslab.lab.progress import Progress

DONE = ("pass", "not applicable")
REPLAYED = "replayed"
"""The event that a check passed in a run that was made for the learner (`egresslab labs goto`)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One chapter of one learner: names of its checks and exercises that are passed, and what it took.

    `shown` counts exercises whose solution was looked at or run for the learner; `replayed` says that the whole chapter
    was run for them.
    """

    chapter: str
    title: str
    checks: int
    passed: int
    exercises: int
    solved: int
    hints: int
    shown: int
    last: str
    replayed: bool = False

    @property
    def done(self) -> bool:
        """Whether every check of the chapter has passed."""
        return self.passed == self.checks

    def to_json(self) -> dict[str, Any]:
        """The record that `egresslab labs progress -o json` prints."""
        return {name: getattr(self, name) for name in (*self.__slots__, "done")}


@dataclass(frozen=True, slots=True)
class Difficulty:
    """One check over many learners: how many tried it, passed it, passed at once, and which help they took."""

    chapter: str
    check: str
    learners: int
    passed: int
    at_once: int
    failures: int
    hints: int
    shown: int

    @property
    def failed_first(self) -> float:
        """Share of those who tried it that did not pass at once, 0 to 1."""
        return 1 - self.at_once / self.learners if self.learners else 0.0

    def to_json(self) -> dict[str, Any]:
        """The record that `egresslab labs progress FILE… -o json` prints."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "failed_first": round(self.failed_first, 3)}


class _Node(dict[str, Any]):
    """A piece of a notebook with its fields as attributes, as nbformat has it, which takes a second to import."""

    __getattr__ = dict.__getitem__


@dataclass(frozen=True, slots=True)
class Contents:
    """What a chapter has to be done: its checks' ids and its exercises' names."""

    chapter: str
    title: str
    checks: tuple[str, ...]
    exercises: tuple[str, ...]


def contents(path: Path) -> Contents:
    """Read a chapter's notebook; quick, so that a notebook may ask for it."""
    notebook: Any = json.loads(path.read_text(), object_hook=_Node)
    for cell in notebook.cells:
        cell.source = "".join(cell.source)  # on disk the source is a list of lines
    ids = dict.fromkeys(id for cell in cells.code(notebook) for id in cells.first_arguments(cell, "check"))
    title = str(notebook.metadata.get("lab", {}).get("title", path.stem))
    return Contents(path.stem, title, tuple(ids), tuple(cells.exercises(notebook)))


def all_contents(directory: Path) -> list[Contents]:
    """Of every chapter, in order."""
    return [contents(path) for path in sorted(directory.glob("*.ipynb")) if locations.number(path.stem)]


def standings(progress: Progress, chapters: Iterable[Contents]) -> list[Standing]:
    """Where one learner stands in each of these chapters."""
    events = list(progress.events())
    best = progress.best()
    return [_standing(chapter, events, best) for chapter in chapters]


def _standing(chapter: Contents, events: Sequence[Mapping[str, Any]], best: Mapping[tuple[str, str], str]) -> Standing:
    own = [event for event in events if event.get("chapter") == chapter.chapter]
    passed = [check for check in chapter.checks if best.get((chapter.chapter, check)) in DONE]
    replayed = {event.get("check") for event in own if event.get("event") == REPLAYED}
    shown = {event.get("check") for event in own if event.get("event") == "solution"} | replayed
    return Standing(
        chapter.chapter,
        chapter.title,
        len(chapter.checks),
        len(passed),
        len(chapter.exercises),
        sum(name in passed for name in chapter.exercises),
        sum(event.get("event") == "hint" for event in own),
        sum(name in shown for name in chapter.exercises),
        max((str(event.get("time", "")) for event in own), default=""),
        bool(replayed) and replayed >= set(chapter.checks),
    )


def table(found: Sequence[Standing]) -> Table:
    """One line for each chapter."""
    rows = tuple(
        (
            _state(standing),
            standing.chapter,
            f"{standing.passed} of {standing.checks}",
            f"{standing.solved} of {standing.exercises}",
            str(standing.hints),
            str(standing.shown),
            standing.last[:10],
        )
        for standing in found
    )
    header = ("", "chapter", "checks passed", "exercises solved", "hints", "solutions", "last at work")
    return Table("Your progress", header, rows)


def _state(standing: Standing) -> str:
    if standing.done and standing.checks:
        return "✔ done"
    if standing.replayed:
        return "→ run for you"
    return "… begun" if standing.last else "– open"


def difficulties(learners: Sequence[Progress]) -> list[Difficulty]:
    """Every check that somebody tried, the hardest first."""
    seen: dict[tuple[str, str], list[Difficulty]] = {}
    for learner in learners:
        events: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for event in learner.events():
            events.setdefault((str(event.get("chapter")), str(event.get("check"))), []).append(event)
        for key, own in events.items():
            seen.setdefault(key, []).append(_of_one(key, own))
    merged = [_merged(key, ones) for key, ones in seen.items()]
    tried = [one for one in merged if one.learners]
    return sorted(tried, key=lambda one: (-one.failed_first, -one.failures, one.chapter, one.check))


def _of_one(key: tuple[str, str], events: Sequence[Mapping[str, Any]]) -> Difficulty:
    outcomes = [str(event.get("outcome")) for event in events if event.get("event") == "check"]
    # Before a learner has begun there is nothing to count.
    tried = [outcome for outcome in outcomes if outcome != "not attempted"]
    return Difficulty(
        *key,
        learners=int(bool(tried)),
        passed=int(any(outcome in DONE for outcome in tried)),
        at_once=int(bool(tried) and tried[0] in DONE),
        failures=sum(outcome == "fail" for outcome in tried),
        hints=sum(event.get("event") == "hint" for event in events),
        shown=int(any(event.get("event") == "solution" for event in events)),
    )


def _merged(key: tuple[str, str], ones: Sequence[Difficulty]) -> Difficulty:
    fields = ("learners", "passed", "at_once", "failures", "hints", "shown")
    return Difficulty(*key, **{name: sum(getattr(one, name) for one in ones) for name in fields})

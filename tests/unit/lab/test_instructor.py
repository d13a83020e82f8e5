"""docs/instructor.md has a section for each chapter, with the minutes that the chapter itself gives."""

from __future__ import annotations

import re
from pathlib import Path

from egresslab.lab import chapters, locations

TEXT = (Path(__file__).parents[3] / "docs" / "instructor.md").read_text()
SECTION = re.compile(r"^### (?P<number>\d\d) [^\n]*\((?P<minutes>\d+) minutes\)\n(?P<body>.*?)(?=^#|\Z)", re.M | re.S)


def test_every_chapter_has_timing_mistakes_and_questions() -> None:
    sections = {found["number"]: found for found in SECTION.finditer(TEXT)}
    for chapter in chapters.discover(chapters.home()):
        number = locations.number(chapter.id)
        assert number in sections, f"no section about {chapter.id}"
        assert int(sections[number]["minutes"]) == chapter.minutes, chapter.id
        assert "**Mistakes.**" in sections[number]["body"], chapter.id
        assert "**Ask.**" in sections[number]["body"], chapter.id

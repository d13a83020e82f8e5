"""Lint's findings for machines: SARIF 2.1.0 for code scanning, JUnit XML for test reports.

Formats: OASIS "Static Analysis Results Interchange Format"; the JUnit XML schema that Jenkins and GitLab read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from egresslab import __version__
from egresslab.cli.manifests import Document
from egresslab.errors import PolicyError
from egresslab.policy.lint.findings import REFUSED, RULES, Finding, Level

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Placed:
    """A finding and where it stands; a finding about the whole has no file."""

    finding: Finding
    file: str | None
    line: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found = self.finding
        return {
            "rule": found.rule.name,
            "level": found.rule.level.value,
            "object": found.subject,
            "field": found.field,
            "message": found.message,
            "fix": found.fix,
            "file": self.file,
            "line": self.line,
        }


def unreadable(error: PolicyError) -> Placed:
    """What is no object at all, as a finding; the error's object is the file and, where it is known, the line."""
    file, _, line = (error.object or "").rpartition(":")
    finding = Finding(REFUSED, "document", "", error.message, error.fix or "correct the document")
    return Placed(finding, file, int(line)) if line.isdigit() else Placed(finding, error.object, 1)


def sarif(placed: Sequence[Placed]) -> str:
    """One run; each finding with file and line, so that a pull request can be annotated."""
    results = []
    for each in placed:
        finding = each.finding
        result: dict[str, Any] = {
            "ruleId": finding.rule.name,
            "ruleIndex": RULES.index(finding.rule),
            "level": finding.rule.level.value,
            "message": {"text": f"{_where(finding)}: {finding.message}. Fix: {finding.fix}."},
        }
        if each.file is not None:
            uri = quote(PurePath(each.file).as_posix())
            result["locations"] = [
                {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": each.line}}}
            ]
        results.append(result)
    rules = [
        {
            "id": rule.name,
            "shortDescription": {"text": rule.summary},
            "defaultConfiguration": {"level": rule.level.value},
        }
        for rule in RULES
    ]
    driver = {"name": "egresslab", "version": __version__, "rules": rules}
    return json.dumps(
        {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}, indent=2
    )


def junit(placed: Sequence[Placed], documents: Sequence[Document], subjects: Sequence[str]) -> str:
    """A suite for each file, a case for each object; errors and warnings are failures, notes are output."""
    suites: dict[str, dict[str, list[Placed]]] = {}
    for document, subject in zip(documents, subjects, strict=True):
        suites.setdefault(document.origin, {}).setdefault(subject, [])
    for each in placed:
        suites.setdefault(each.file or "cluster", {}).setdefault(each.finding.subject, []).append(each)
    root = ElementTree.Element("testsuites", name="egresslab policy lint")
    for file, cases in suites.items():
        failed = sum(any(map(_fails, found)) for found in cases.values())
        suite = ElementTree.SubElement(
            root, "testsuite", name=xml_text(file), tests=str(len(cases)), failures=str(failed)
        )
        for subject, found in cases.items():
            case = ElementTree.SubElement(suite, "testcase", classname=xml_text(file), name=xml_text(subject))
            failures = [each for each in found if _fails(each)]
            if failures:
                first = failures[0].finding
                failure = ElementTree.SubElement(case, "failure", message=xml_text(first.message), type=first.rule.name)
                failure.text = xml_text("\n".join(map(as_line, failures)))
            notes = [each for each in found if not _fails(each)]
            if notes:
                ElementTree.SubElement(case, "system-out").text = xml_text("\n".join(map(as_line, notes)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def as_line(each: Placed) -> str:
    """As compilers write it, so that editors find the place."""
    finding = each.finding
    place = f"{each.file}:{each.line}: " if each.file else ""
    return (
        f"{place}{finding.rule.level}: {_where(finding)}: {finding.message} [{finding.rule.name}]\n  fix: {finding.fix}"
    )


def _where(finding: Finding) -> str:
    return f"{finding.subject}: {finding.field}" if finding.field else finding.subject


def _fails(each: Placed) -> bool:
    return each.finding.rule.level is not Level.NOTE


def xml_text(text: str) -> str:
    """XML 1.0 has no control characters, halves of surrogate pairs, or the last two characters of the first plane."""
    return "".join(
        c if " " <= c < "\ud800" or "\ue000" <= c < "\ufffe" or c > "\uffff" or c in "\n\t" else " " for c in text
    )

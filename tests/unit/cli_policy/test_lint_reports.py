"""`egresslab policy lint`: findings with file and line, in every format that a CI reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.unit.cli_policy.conftest import Run
from tests.unit.policy import build

Write = Callable[..., Path]
BAD = """\
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: hosts
spec:
  selectors:
  - podSelector: {}
  destinationCIDRs:
  - 198.51.100.0/24
  - 203.0.113.7/24
  egressGateway:
    nodeSelector: {matchLabels: {egress: "true"}}
---
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: refused
spec:
  selectors:
  - podSelector:
      matchLabels:
        app: true
  destinationCIDRs: []
  egressGateway:
    nodeSelector: {}
"""


def test_lines_as_compilers_write_them(run: Run, write: Write) -> None:
    path = write("bad.yaml", BAD)
    result = run("lint", "-f", path)
    assert f"{path}:10: warning: CiliumEgressGatewayPolicy/hosts: spec.destinationCIDRs[1]: " in result.stdout
    assert "[host-bits]\n  fix: write 203.0.113.0/24, or 203.0.113.7/32 for the one address" in result.stdout
    refused = f"{path}:22: error: CiliumEgressGatewayPolicy/refused: spec.selectors[0].podSelector.matchLabels.app"
    assert refused in result.stdout
    assert 'fix: put it in quotes: "true"' in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("never", 0)])
def test_the_exit_status_follows_the_level_asked_for(level: str, code: int, run: Run, write: Write) -> None:
    path = write("warned.yaml", BAD.partition("---")[0])
    assert run("lint", "-f", path, "--fail-on", level).exit_code == code


def test_json_has_stable_names(run: Run, write: Write) -> None:
    path = write("bad.yaml", BAD)
    found = {each["rule"]: each for each in json.loads(run("lint", "-f", path, "-o", "json").stdout)}
    assert found["host-bits"] == {
        "rule": "host-bits",
        "level": "warning",
        "object": "CiliumEgressGatewayPolicy/hosts",
        "field": "spec.destinationCIDRs[1]",
        "message": "203.0.113.7/24 has host bits set; the kernel matches 203.0.113.0/24",
        "fix": "write 203.0.113.0/24, or 203.0.113.7/32 for the one address",
        "file": str(path),
        "line": 10,
    }


def test_sarif_names_rule_place_and_level(run: Run, write: Write) -> None:
    path = write("bad.yaml", BAD)
    report = json.loads(run("lint", "-f", path, "-o", "sarif").stdout)
    assert report["version"] == "2.1.0"
    (each,) = report["runs"]
    rules = [rule["id"] for rule in each["tool"]["driver"]["rules"]]
    by_rule = {result["ruleId"]: result for result in each["results"]}
    assert {"refused", "host-bits"} <= by_rule.keys() <= set(rules)
    refused = by_rule["refused"]
    assert rules[refused["ruleIndex"]] == "refused"
    assert refused["level"] == "error"
    place = refused["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": path.as_posix()}, "region": {"startLine": 22}}


def test_junit_has_a_case_for_each_object(run: Run, write: Write) -> None:
    path = write("bad.yaml", BAD)
    root = ElementTree.fromstring(run("lint", "-f", path, "-o", "junit").stdout)
    (suite,) = root.findall("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == (str(path), "2", "2")
    failures = {case.get("name"): case.find("failure") for case in suite.findall("testcase")}
    hosts = failures["CiliumEgressGatewayPolicy/hosts"]
    assert hosts is not None
    assert hosts.get("type") == "host-bits"
    assert f"{path}:10" in (hosts.text or "")


def test_a_clean_folder_says_nothing_and_succeeds(run: Run, write: Write) -> None:
    path = write("good.yaml", build.node("gw", 2), build.pod("a", "10.0.0.1"), build.gateway(), build.policy())
    result = run("lint", "-f", path.parent)
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


def test_lint_reads_lists_and_keeps_lines(run: Run, write: Write) -> None:
    first, second = BAD.split("---\n")
    items = "".join("- " + text.replace("\n", "\n  ").rstrip() + "\n" for text in (first, second))
    path = write("list.yaml", f"apiVersion: v1\nkind: List\nitems:\n{items}")
    found = {each["rule"]: each["line"] for each in json.loads(run("lint", "-f", path, "-o", "json").stdout)}
    lines = path.read_text().splitlines()
    assert lines[found["host-bits"] - 1].strip() == "- 203.0.113.7/24"
    assert lines[found["refused"] - 1].strip() == "app: true"


@pytest.mark.parametrize("output", ["sarif", "junit", "json", "table"])
def test_what_cannot_be_read_is_reported_where_it_stands(output: str, run: Run, write: Write) -> None:
    path = write("with blanks.yaml", f"{BAD}---\na: [\n")
    end = path.read_text().count("\n") + 1
    result = run("lint", "-f", path, "-o", output)
    assert result.exit_code == 1
    if output == "sarif":
        (report,) = json.loads(result.stdout)["runs"]
        (found,) = [each for each in report["results"] if "not YAML" in each["message"]["text"]]
        place = found["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"].endswith("/with%20blanks.yaml")
        assert place["region"] == {"startLine": end}
    elif output == "junit":
        suite = ElementTree.fromstring(result.stdout)[0]
        assert suite.attrib["failures"] == "3"
        assert "not YAML" in result.stdout
    else:
        assert f"{path}:{end}: error: document: not YAML" in result.stdout or '"document"' in result.stdout


def test_junit_is_xml_whatever_names_there_are(run: Run, write: Write) -> None:
    policies = [build.cilium("a"), build.cilium("b"), build.cilium("c")]
    for policy, name in zip(policies, ("\x01", "\ud800", "\uffff"), strict=True):
        policy["metadata"]["name"] = name
    path = write("odd.json", json.dumps({"kind": "List", "items": policies}))
    suite = ElementTree.fromstring(run("lint", "-f", path, "-o", "junit").stdout)[0]
    assert int(suite.attrib["failures"]) >= 1

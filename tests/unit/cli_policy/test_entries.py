"""`egresslab policy entries`: the rows of a node, from any kind of input; a refused policy harms no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from egresslab.policy.cases import objects_of
from tests.unit.cli_policy.conftest import Run
from tests.unit.policy import build
from tests.unit.policy.test_cilium_cases import CASES

Write = Callable[..., Path]
WORLD = [build.node("gw", 2), build.node("worker", 4, gateway=False), build.pod("a", "10.0.0.1"), build.cilium()]
ROW = {
    "source": "10.0.0.1",
    "destination": "203.0.113.0/24",
    "egress_ip": "192.168.60.2",
    "gateway_ip": "192.168.60.2",
    "egress_interface": "eth0",
    "gateway_node": "gw",
    "policy": "p",
}


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case["steps"]], ids=[case["id"] for case in CASES if not case["steps"]]
)
def test_cases_as_manifests(case: dict[str, Any], run: Run, write: Write) -> None:
    """One file for each object, in a folder and a folder below it."""
    for number, obj in enumerate(objects_of(case)):
        folder = write(f"{number % 2}/{number}.yaml", obj).parent.parent
    result = run("entries", "-f", folder, "--node", case["observer_node"], "-o", "json")
    keys = ("source", "destination", "egress_ip", "gateway_ip")
    found = sorted(tuple(row[key] for key in keys) for row in json.loads(result.stdout))
    assert found == sorted(tuple(row[key] for key in keys) for row in case["expected_entries"])
    assert result.exit_code == (1 if case.get("policy_accepted") is False else 0)


def test_json_of_the_gateway_and_of_another_node(run: Run, write: Write) -> None:
    path = write("all.yaml", *WORLD)
    assert json.loads(run("entries", "-f", path, "--node", "gw", "-o", "json").stdout) == [ROW]
    elsewhere = {**ROW, "egress_ip": "0.0.0.0", "egress_interface": None}
    assert json.loads(run("entries", "-f", path, "--node", "worker", "-o", "json").stdout) == [elsewhere]
    assert yaml.safe_load(run("entries", "-f", path, "--node", "worker", "-o", "yaml").stdout) == [elsewhere]


def test_the_table_has_ciliums_layout(run: Run, write: Write) -> None:
    path = write("all.yaml", *WORLD[:3], build.cilium(excludedCIDRs=["203.0.113.9/32"]), build.pod("b", "10.0.0.222"))
    result = run("entries", "-f", path, "--node", "worker")
    assert result.stdout == (
        "Source IP    Destination CIDR   Egress IP   Gateway IP\n"
        "10.0.0.1     203.0.113.0/24     0.0.0.0     192.168.60.2\n"
        "10.0.0.1     203.0.113.9/32     0.0.0.0     Excluded CIDR\n"
        "10.0.0.222   203.0.113.0/24     0.0.0.0     192.168.60.2\n"
        "10.0.0.222   203.0.113.9/32     0.0.0.0     Excluded CIDR\n"
    )


def test_no_gateway_and_no_entries(run: Run, write: Write) -> None:
    nowhere = write("nowhere.yaml", WORLD[2], build.cilium())
    result = run("entries", "-f", nowhere)
    assert result.stdout.splitlines()[1].endswith("0.0.0.0     Not Found")
    assert "CiliumEgressGatewayPolicy/p: NoGatewayNode" in result.stderr
    empty = run("entries", "-f", write("empty.yaml", WORLD[0]))
    assert (empty.stdout, empty.stderr, empty.exit_code) == ("", "No entries found.\n", 0)


def test_a_refused_policy_is_named_and_the_others_are_printed(run: Run, write: Write) -> None:
    path = write("all.yaml", *WORLD, build.cilium("bad", destinationCIDRs=["10.0.0.1"]))
    result = run("entries", "-f", path, "--node", "gw", "-o", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [ROW]
    place = f"{path}:{path.read_text().splitlines().index('  - 10.0.0.1') + 1}"
    assert f"{place}: CiliumEgressGatewayPolicy/bad: spec.destinationCIDRs[0]: a CIDR needs" in result.stderr
    assert "(got '10.0.0.1')" in result.stderr
    assert "fix: write 10.0.0.1/32" in result.stderr


@pytest.mark.parametrize(
    "broken", ["a: [", "\tx", "- a\n- b", "just text", "? {a: b} : c", "a: !!int x", "*unknown", "!!python/object:x y"]
)
def test_a_document_that_cannot_be_read_spoils_no_other(broken: str, run: Run, write: Write) -> None:
    good = yaml.safe_dump_all(WORLD)
    path = write("mixed.yaml", f"{broken}\n---\n{good}\n---\n{broken}\n")
    result = run("entries", "-f", path, "--node", "gw", "-o", "json")
    assert json.loads(result.stdout) == [ROW]
    assert result.exit_code == 1
    assert result.stderr.count("egresslab: ") == 2
    assert f"{path}:" in result.stderr


def test_the_line_of_a_yaml_error_counts_from_the_start_of_the_file(run: Run, write: Write) -> None:
    path = write("mixed.yaml", f"{yaml.safe_dump(WORLD[0])}---\na: b\nc: 'd\n")
    end = path.read_text().count("\n") + 1
    assert f"{path}:{end}: not YAML" in run("entries", "-f", path).stderr


def test_several_inputs_lists_json_and_stdin(run: Run, write: Write) -> None:
    listed = write("pods.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": WORLD[:3]}, indent="\t"))
    result = run("entries", "-f", listed, "-f", "-", "--node", "gw", "-o", "json", stdin=yaml.safe_dump(WORLD[3]))
    assert json.loads(result.stdout) == [ROW]
    typed = {"apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicyList", "items": [{**WORLD[3]}]}
    del typed["items"][0]["kind"], typed["items"][0]["apiVersion"]
    result = run("entries", "-f", listed, "-f", write("p.yaml", typed), "--node", "gw", "-o", "json")
    assert json.loads(result.stdout) == [ROW]


def test_a_path_that_is_not_there_is_an_error_for_users(write: Write, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from egresslab.cli.policy import app
    from egresslab.errors import PolicyError

    result = CliRunner().invoke(app, ["entries", "-f", str(tmp_path / "absent.yaml")])
    assert isinstance(result.exception, PolicyError)
    assert "absent.yaml: cannot be read: No such file" in str(result.exception)


def test_ciliums_own_outcome_on_request(run: Run, write: Write) -> None:
    selectors = [
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"podSelector": {}, "nodeSelector": {"matchLabels": {"no": "node"}}},
    ]
    path = write("all.yaml", *WORLD[:3], build.cilium(selectors=selectors))
    assert json.loads(run("entries", "-f", path, "--node", "gw", "-o", "json").stdout) == [ROW]
    assert json.loads(run("entries", "-f", path, "--as", "cilium", "-o", "json").stdout) == []


def test_the_uid_of_a_cilium_endpoint_decides_the_spread(run: Run, write: Write) -> None:
    gateways = [{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": name}}} for name in ("gw", "gw2")]
    endpoint = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEndpoint",
        "metadata": {"name": "a", "namespace": "default", "uid": ""},
    }
    seen = set()
    for number in range(8):
        endpoint["metadata"]["uid"] = f"7c22952d-25a0-409d-952c-60895b5c2a9{number}"
        objects = [*WORLD[:3], build.node("gw2", 3), build.cilium(egressGateways=gateways), endpoint]
        (row,) = json.loads(run("entries", "-f", write("all.yaml", *objects), "-o", "json").stdout)
        seen.add(row["gateway_node"])
    assert seen == {"gw", "gw2"}


def test_a_conflict_is_warned_of(run: Run, write: Write) -> None:
    eth1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
    result = run("entries", "-f", write("all.yaml", *WORLD, build.cilium("q", egressGateway=eth1)))
    assert result.exit_code == 0
    assert "warning: CiliumEgressGatewayPolicy/p: Conflict" in result.stderr


def test_a_file_that_is_no_text_spoils_no_other(run: Run, write: Write) -> None:
    folder = write("all.yaml", *WORLD).parent
    (folder / "latin.yaml").write_bytes(b"a: \xe9\xff\n")
    result = run("entries", "-f", folder, "--node", "gw", "-o", "json")
    assert json.loads(result.stdout) == [ROW]
    assert result.exit_code == 1
    assert "latin.yaml: cannot be read: not UTF-8 text" in result.stderr


def test_standard_input_that_is_no_text_is_an_error_for_users() -> None:
    from typer.testing import CliRunner

    from egresslab.cli.policy import app
    from egresslab.errors import PolicyError

    result = CliRunner().invoke(app, ["entries", "-f", "-"], input=b"a: \xe9\xff\n")
    assert isinstance(result.exception, PolicyError)
    assert "stdin: cannot be read: not UTF-8 text" in str(result.exception)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_objects_one_after_another(indent: int | None, run: Run, write: Write) -> None:
    path = write("all.json", "\n".join(json.dumps(obj, indent=indent) for obj in WORLD))
    result = run("entries", "-f", path, "--node", "gw", "-o", "json")
    assert (json.loads(result.stdout), result.exit_code) == ([ROW], 0)


def test_yaml_directives_before_the_first_marker(run: Run, write: Write) -> None:
    path = write("all.yaml", "# made by hand\n%YAML 1.1\n---\n" + yaml.safe_dump_all(WORLD))
    result = run("entries", "-f", path, "--node", "gw", "-o", "json")
    assert (json.loads(result.stdout), result.exit_code) == ([ROW], 0)


def test_words_that_only_old_yaml_takes_for_numbers_and_dates_are_text(run: Run, write: Write) -> None:
    """As the readers of Kubernetes take them: a date is a label value, an address of groups of digits is no number."""
    pod = yaml.safe_dump(build.pod("a", "ADDRESS", labels={"app": "web", "released": "DATE"}))
    text = pod.replace("ADDRESS", "2001:1:2:3:4:5:6:7").replace("DATE", "2026-01-01")
    path = write("all.yaml", f"{text}---\n" + yaml.safe_dump_all([WORLD[0], build.cilium(destinationCIDRs=["::/0"])]))
    result = run("entries", "-f", path, "--node", "gw", "-o", "json")
    assert [row["source"] for row in json.loads(result.stdout)] == ["2001:1:2:3:4:5:6:7"]
    assert result.exit_code == 0

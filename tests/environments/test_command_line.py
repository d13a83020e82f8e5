"""The command line: quick help, errors that say what to do, exit codes, and kubectl passed through untouched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from egresslab.cli.lazy import LAZY, Root
from egresslab.environments.netns import doctor
from egresslab.environments.netns.doctor import Finding, Verdict, installation

HEAVY = ("kubernetes", "aiohttp", "pyroute2", "cryptography", "pydantic", "uvicorn", "starlette")


def egresslab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "egresslab.cli.main", *arguments]
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=given)


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    program = (
        "import sys\nfrom egresslab.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & {set(HEAVY)!r}))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
    for name in ("up", "down", "status", "doctor", "kubeconfig", "kubectl", "fault"):
        assert f" {name} " in answer.stdout


def test_sub_commands_that_are_not_installed_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAZY, "elsewhere", ("egresslab.cli.no_such_module", "Nothing."))
    assert "elsewhere" not in Root(name="x").commands


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["up", "--no-such-option"], ["status", "-o", "xml"], ["fault", "cut"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert egresslab(*arguments).returncode == 2


@pytest.mark.parametrize("arguments", [["kubeconfig"], ["kubectl", "get", "nodes"], ["fault", "crash", "x"]])
def test_lab_that_is_not_there_is_said_with_the_fix_on_stderr(arguments: list[str]) -> None:
    answer = egresslab(*arguments, EGRESSLAB_LAB="envt-nowhere")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "lab envt-nowhere: is not up" in answer.stderr
    assert "fix: egresslab up --lab envt-nowhere" in answer.stderr


def test_bad_lab_name_is_said_with_the_value() -> None:
    answer = egresslab("status", "--lab", "No/Good")
    assert answer.returncode == 1
    assert "(got 'No/Good')" in answer.stderr


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_status_of_no_lab_in_every_format(output: str, read: type) -> None:
    answer = egresslab("status", "--lab", "envt-nowhere", "-o", output)
    assert answer.returncode == 1
    assert read(answer.stdout) == {
        "lab": "envt-nowhere",
        "environment": "netns",
        "phase": "absent",
        "kubeconfig": None,
        "api": None,
        "nodes": [],
        "processes": [],
        "faults": [],
        "remarks": [],
    }


def test_broken_topology_file_is_named_before_anything_is_made(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nodes: []\n")
    answer = egresslab("up", "--bare", "--lab", "envt-nowhere", "--topology", str(file))
    assert answer.returncode == 1
    assert str(file) in answer.stderr or "root" in answer.stderr
    assert not Path("/run/egresslab/envt-nowhere").exists()


def test_completion_knows_the_commands() -> None:
    answer = egresslab(_EGRESSLAB_COMPLETE="complete_bash", COMP_WORDS="egresslab fa", COMP_CWORD="1")
    assert answer.stdout.split() == ["fault"]


def test_missing_tools_become_one_installation_command() -> None:
    findings = [
        Finding("nft", Verdict.MISSING, "not found", None, ("nftables",)),
        Finding("bwrap", Verdict.MISSING, "not found", None, ("bubblewrap",)),
        Finding("bpftool", Verdict.OPTIONAL, "not found", None, ("bpftool",)),
        Finding("curl", Verdict.OK, "/usr/bin/curl", None, ("curl",)),
    ]
    assert installation(findings) == "apt-get update && apt-get install -y --no-install-recommends bubblewrap nftables"
    assert installation(findings[2:]) is None
    assert (installation(findings[2:], optional=True) or "").endswith(" bpftool")


def test_doctor_names_what_is_not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SEARCH_PATH", str(tmp_path))
    missing = {finding.name: finding for finding in doctor.basics() if finding.verdict is Verdict.MISSING}
    assert missing["tcpdump"].packages == ("tcpdump",)
    assert set(doctor.TOOLS) <= set(missing)


@pytest.mark.root
def test_doctor_tries_the_kernel() -> None:
    data = json.loads(egresslab("doctor", "-o", "json").stdout)
    tried = {f["name"]: f["verdict"] for f in data["findings"] if f["name"].startswith("kernel: ")}
    assert set(tried.values()) == {"ok"}
    assert "kernel: clsact" in tried

"""What a lab on Kind needs of this machine, looked at before anything is made, each with the way to get it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from egresslab.environments.kind.commands import Commands
from egresslab.environments.kind.plan import Datapath
from egresslab.environments.kind.versions import numbers, pinned
from egresslab.environments.netns.doctor import Finding, Verdict
from egresslab.errors import EnvironmentFailure

OLDEST = {"docker": (20, 10), "kind": (0, 27), "helm": (3, 12)}
"""The first version of each that is known to do."""
GET = {
    "docker": "install Docker's engine: apt-get install docker.io, or as docs.docker.com/engine/install says",
    "kind": "go install sigs.k8s.io/kind@{KIND}, or as kind.sigs.k8s.io says",
    "helm": "go install helm.sh/helm/v3/cmd/helm@{HELM}, or as helm.sh says",
}
MEMORY_MIB = 6 * 1024
CILIUM_CHART = "cilium/cilium"


def examine(commands: Commands, datapath: Datapath, *, node_image: str, image: str, chart: str) -> Iterator[Finding]:
    """Each thing in turn; what depends on Docker is left out where Docker does not answer."""
    versions = pinned()
    yield from _programs(commands, versions)
    yield from _engine(commands, node_image, image)
    if datapath is Datapath.CILIUM:
        yield _cilium(commands, chart)


def require(findings: list[Finding]) -> None:
    """Raise `EnvironmentFailure` that names all that is missing, and how to get it."""
    lacking = [finding for finding in findings if finding.verdict is Verdict.MISSING]
    if lacking:
        raise EnvironmentFailure(
            "; ".join(f"{finding.name}: {finding.found}" for finding in lacking),
            object="environment kind",
            fix="\n       ".join(finding.fix for finding in lacking if finding.fix),
        )


def _programs(commands: Commands, versions: dict[str, str] | object) -> Iterator[Finding]:
    asked = {
        "docker": ("docker", "--version"),
        "kind": ("kind", "version"),
        "helm": ("helm", "version", "--short"),
    }
    for name, words in asked.items():
        fix = GET[name].format_map(pinned())
        if commands.where(name) is None:
            yield Finding(name, Verdict.MISSING, "is not installed", fix)
            continue
        try:
            said = commands.run(*words).strip()
        except EnvironmentFailure as error:
            yield Finding(name, Verdict.MISSING, error.message, fix)
            continue
        found, oldest = numbers(said), OLDEST[name]
        if found < oldest:
            wanted = ".".join(map(str, oldest))
            yield Finding(name, Verdict.MISSING, f"{said.splitlines()[0]}; {wanted} or later is needed", fix)
        else:
            yield Finding(name, Verdict.OK, said.splitlines()[0])


def _engine(commands: Commands, node_image: str, image: str) -> Iterator[Finding]:
    if commands.where("docker") is None:
        return
    try:
        info = json.loads(commands.docker("info", "--format", "{{json .}}"))
        trouble = "; ".join(info.get("ServerErrors") or ())
    except (EnvironmentFailure, ValueError) as error:
        info, trouble = {}, getattr(error, "message", str(error))
    if trouble or not info.get("ServerVersion"):
        yield Finding(
            "Docker's engine",
            Verdict.MISSING,
            f"does not answer: {trouble}".strip(),
            "systemctl start docker, and be in the group docker; or name another engine in DOCKER_HOST",
        )
        return
    yield Finding("Docker's engine", Verdict.OK, f"{info['ServerVersion']}, cgroup {info.get('CgroupVersion', '1')}")
    memory = int(info.get("MemTotal", 0)) >> 20
    enough = memory >= MEMORY_MIB
    yield Finding(
        "memory for Docker",
        Verdict.OK if enough else Verdict.MISSING,
        f"{memory} MiB (four nodes want {MEMORY_MIB})",
        None if enough else "give Docker's machine more memory",
    )
    for what, name in (("node image", node_image), ("egresslab's image", image)):
        here = commands.inspect("image", name) is not None
        yield Finding(
            what,
            Verdict.OK if here else Verdict.OPTIONAL,
            name if here else f"{name} is not here yet; it is fetched or built",
        )


def _cilium(commands: Commands, chart: str) -> Finding:
    try:
        commands.run("helm", "show", "chart", chart, "--version", pinned()["CILIUM"], timeout_s=60)
    except EnvironmentFailure as error:
        return Finding(
            "Cilium's chart",
            Verdict.MISSING,
            error.message.splitlines()[-1],
            f"add Cilium's chart repository to helm under the name {CILIUM_CHART.split('/')[0]} (docs.cilium.io, "
            "installation using Helm), or name a chart in EGRESSLAB_CILIUM_CHART",
        )
    return Finding("Cilium's chart", Verdict.OK, f"{chart} {pinned()['CILIUM']}")

"""A lab of virtual machines on this machine, as an `Environment`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from egresslab.environments.base import Progress
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.labrecord import LabRecord
from egresslab.environments.netns.topology import Topology
from egresslab.environments.vm import acceleration, preflight
from egresslab.environments.vm.fleet import Fleet, machine_names
from egresslab.environments.vm.qemu import Acceleration, Hardware
from egresslab.environments.vm.recipe import load_definition, load_recipe
from egresslab.environments.vm.store import Store
from egresslab.environments.vm.system import provide

PROBES = {"readinessProbe", "livenessProbe", "startupProbe"}
PROBE_TIMEOUT_S, PROBE_PERIOD_S = 15, 3
STRETCHED = {"agent", "operator"}
STRETCH_VARIABLE = "EGRESSLAB_STRETCH"


class VmEnvironment(NetnsEnvironment):
    """One lab. Its networks, its control plane and the world outside are those of a lab of namespaces, and so is
    everything that goes by the lab's record; only bringing it up makes machines."""

    kind = "vm"
    # An emulated processor is some ten times slower than the one it is emulated on, and several share one.
    nodes_deadline_s = 420.0
    rollout_deadline_s = 420.0

    def _objects(self, *, bare: bool) -> list[dict[str, Any]]:
        """The same, only that a probe may take its time: starting a program on an emulated processor does."""
        objects = super()._objects(bare=bare)
        for workload in objects:
            pod = workload.get("spec", {}).get("template", {}).get("spec", {})
            for container in pod.get("containers", ()):
                for probe in PROBES & container.keys():
                    period = max(PROBE_PERIOD_S, container[probe].get("periodSeconds", 0))
                    container[probe] |= {"timeoutSeconds": PROBE_TIMEOUT_S, "periodSeconds": period}
        return objects

    async def _make_ready(self, record: LabRecord, objects: list[dict[str, Any]], clock: Progress) -> None:
        await super()._make_ready(record, stretched(objects, round(record.patience)), clock)

    def _check_machine(self, topology: Topology | None) -> None:
        definition = load_definition()
        machines = machine_names(topology or self._default_topology())
        if not self._paths.record.exists():
            preflight.require(preflight.examine(definition, load_recipe(definition.system), Store(), len(machines)))

    def _machines(self, topology: Topology, progress: Progress) -> Fleet:
        definition = load_definition()
        recipe, store = load_recipe(definition.system), Store()
        system = provide(recipe, store, definition.machine.disk_mib, progress)
        plain = Hardware(
            recipe.platform, Acceleration.EMULATION, definition.machine.memory_mib, definition.machine.cores
        )
        chosen, why = acceleration.choose(plain, system, store.root / "acceleration.json")
        nodes = machine_names(topology)
        how = "KVM" if chosen is Acceleration.KVM else "software emulation, which is slow"
        progress.note(f"{len(nodes)} machines by {how} ({why})")
        return Fleet(nodes, replace(plain, acceleration=chosen), system, definition.system.python)


def stretched(objects: list[dict[str, Any]], factor: int) -> list[dict[str, Any]]:
    """The same, with voters that probe and talk more slowly by the factor: otherwise a busy emulated processor is
    taken for a dead gateway."""
    if factor <= 1:
        return objects
    for workload in objects:
        pod = workload.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            if container["name"] in STRETCHED and workload["metadata"]["namespace"] == "kube-system":
                container.setdefault("env", []).append({"name": STRETCH_VARIABLE, "value": str(factor)})
    return objects

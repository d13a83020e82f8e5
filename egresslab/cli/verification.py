"""A live cluster's policies against its nodes' kernels. Read-only.

A cluster is never still: what differs is looked at a second time, after a pause, and only what differs in the same way
then is told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egresslab.api import settings as config
from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.resources import CONFIGMAPS
from egresslab.cli.cluster_objects import POLICY_KINDS, observed_choices, read_objects
from egresslab.cli.kernels import Answer, ask_nodes, whose_agents
from egresslab.errors import ClusterError, PolicyError
from egresslab.policy.endpoints import with_endpoint_uids
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.inventory import Ref, Value, ref_of
from egresslab.policy.model import Dialect, EgressPolicy, GatewayGroup
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.settings import Fidelity, Settings
from egresslab.policy.verify import Difference, Implied, Whose, compare, implied, parse_listing


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of it. `rows`: how many each node holds that answered; `silent`: why each of the others did not."""

    agents: Whose
    rows: dict[str, int]
    silent: dict[str, str]
    differences: tuple[Difference, ...]
    refused: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every node answered and nothing differs."""
        return not (self.silent or self.differences)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        wrong = Counter(difference.node for difference in self.differences)
        nodes = [{"node": n, "answered": True, "rows": rows, "differences": wrong[n]} for n, rows in self.rows.items()]
        nodes += [{"node": n, "answered": False, "error": error} for n, error in self.silent.items()]
        return {
            "agrees": self.agrees,
            "agents": str(self.agents),
            "nodes": sorted(nodes, key=lambda node: str(node["node"])),
            "differences": [difference.as_dict() for difference in self.differences],
            "refused": list(self.refused),
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for on the command line."""

    whose: Whose
    nodes: frozenset[str]
    parallel: int
    timeout_s: float
    settle_s: float
    health_aware: bool


async def compare_kernels(kubeconfig: Path, context: str | None, question: Question) -> Verified:
    """The answer. Raises `ClusterError` when the cluster itself cannot be read."""
    async with connect(kubeconfig, context) as api:
        whose, agents, pods = await whose_agents(api, question.whose)
        wanted, nodes, refused = await _implied(api, whose, question)

        async def look(names: Collection[str]) -> dict[str, Answer]:
            with _progress(len(names)) as advance:
                return await ask_nodes(
                    api,
                    agents,
                    pods,
                    sorted(names),
                    together=question.parallel,
                    timeout_s=question.timeout_s,
                    answered=lambda answer: advance(),
                )

        rows, silent, differences = _compared(wanted, await look(nodes))
        if differences:
            await asyncio.sleep(question.settle_s)
            wanted, _, refused = await _implied(api, whose, question)
            more, mute, again = _compared(wanted, await look({difference.node for difference in differences}))
            rows, silent = {n: count for n, count in (rows | more).items() if n not in mute}, silent | mute
            differences = [difference for difference in again if difference in set(differences)]
        return Verified(whose, rows, silent, tuple(differences), tuple(refused))


def _compared(wanted: Implied, answers: dict[str, Answer]) -> tuple[dict[str, int], dict[str, str], list[Difference]]:
    rows: dict[str, int] = {}
    silent: dict[str, str] = {}
    differences: list[Difference] = []
    for name, answer in answers.items():
        if answer.text is None:
            silent[name] = answer.error
            continue
        try:
            found = parse_listing(answer.text, name)
        except PolicyError as error:
            silent[name] = str(error)
            continue
        rows[name] = len(found)
        differences += compare(wanted, name, found)
    return rows, silent, differences


async def _implied(api: Api, whose: Whose, question: Question) -> tuple[Implied, set[str], list[str]]:
    """What policies imply now, the nodes to ask, and the objects that mean nothing."""
    documents = await read_objects(api, POLICY_KINDS)
    settings = await _settings(api)
    ours = whose is Whose.EGRESSLAB
    # Cilium knows its own policies alone; with it as the backend, so do our agents.
    theirs = not ours or settings.backend is config.Backend.CILIUM
    engine = Engine(
        Settings(
            Fidelity.EGRESSLAB if ours else Fidelity.CILIUM, ours and (question.health_aware or settings.health_aware)
        )
    )
    values: dict[Ref, Value] = {}
    refused = []
    for document in documents:
        try:
            value = from_kubernetes(document.obj)
        except PolicyError as error:
            refused.append(str(error))
            continue
        if value is not None and not (theirs and _of_ours(value)):
            values[ref_of(value)] = value
    engine.apply_all(Upsert(v) for v in with_endpoint_uids(values.values(), (d.obj for d in documents)))
    if not theirs:
        engine.apply_all(Upsert(choice) for choice in observed_choices(documents))
    nodes = set(engine.registry.nodes)
    if unknown := sorted(question.nodes - nodes):
        raise ClusterError("no such node", object=f"Node/{unknown[0]}", fix=f"one of: {', '.join(sorted(nodes)[:20])}")
    return implied(engine), set(question.nodes) or nodes, refused


def _of_ours(value: Value) -> bool:
    """Whether it was written in a dialect that Cilium does not know."""
    key = value.key if isinstance(value, EgressPolicy | GatewayGroup) else None
    return key is not None and key.dialect is not Dialect.CILIUM


async def _settings(api: Api) -> config.ClusterSettings:
    """The cluster's; defaults where there are none, or we may not read them."""
    try:
        return config.parse_settings(await api.get(CONFIGMAPS, config.NAME, config.NAMESPACE))
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        return config.ClusterSettings()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, on a terminal only."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("nodes", total=total)
        yield lambda: bar.advance(task)

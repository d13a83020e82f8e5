"""The rights that docs/verify.md asks for are enough to learn what policies imply, and to ask agents; no more are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from egresslab.api.connection import ApiError, connect
from egresslab.api.resources import CILIUM_POLICIES, PODS, Object
from egresslab.cli.cluster_objects import POLICY_KINDS, read_objects
from egresslab.cli.verification import Question, compare_kernels
from egresslab.policy.verify import Whose
from tests.operator.conftest import VERIFIER, Cluster, kubectl

DOCUMENT = Path(__file__).parents[2] / "docs" / "verify.md"


def bindings() -> list[Object]:
    """The roles of the document, bound to the account."""
    text = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    found: list[Object] = []
    _, _, namespace, name = VERIFIER.split(":")
    for role in yaml.safe_load_all(text):
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]}
        binding = {"apiVersion": role["apiVersion"], "kind": f"{role['kind']}Binding", "metadata": role["metadata"]}
        found += [role, {**binding, "roleRef": reference, "subjects": [subject]}]
    return found


async def test_what_is_documented_is_enough_and_is_all(cluster: Cluster) -> None:
    done = kubectl(cluster.server, "apply", "-f", "-", stdin=yaml.safe_dump_all(bindings()))
    assert done.returncode == 0, done.stderr
    kubeconfig = cluster.server.kubeconfig_for(VERIFIER)
    async with connect(kubeconfig) as api:
        assert {document.obj["kind"] for document in await read_objects(api, POLICY_KINDS)} >= {"Node", "Pod"}
        for name in ("x", "y"):
            with pytest.raises(ApiError) as refused:
                await (api.delete(PODS, name, "kube-system") if name == "x" else api.delete(CILIUM_POLICIES, name))
            assert refused.value.status == 403
    found = await compare_kernels(kubeconfig, None, Question(Whose.AUTO, frozenset(), 4, 5.0, 0.0, False))
    assert found.agents is Whose.EGRESSLAB
    # These agents are recorded ones: nobody answers an exec, and every node is told.
    assert len(found.silent) == 4 and not found.agrees

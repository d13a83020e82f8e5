"""From a container's spec to a launch plan: command, environment, rights and mounts as Kubernetes defines them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from egresslab.api.resources import Object, Resource
from egresslab.cluster.node import sandbox as sandboxes
from egresslab.cluster.node.config import NodeConfig
from egresslab.cluster.node.containers import TERMINATION
from egresslab.cluster.node.images import Image, find_program
from egresslab.cluster.node.kernel import CAPABILITIES
from egresslab.cluster.node.launch import LaunchPlan
from egresslab.cluster.node.rootfs import DEFAULT_CAPABILITIES, Mount, Rootfs, Security
from egresslab.cluster.node.sandbox import Sandbox
from egresslab.cluster.node.variables import ConfigError, expand, variables
from egresslab.cluster.node.volumes import Volumes

SWITCH = "/.setpriv"
"""Where a container that is not run by root finds the program that makes it so."""


def security(pod: Object, container: Object) -> Security:
    """Rights of a container; raises `ConfigError` for a capability that does not exist, and for root where it must not
    be."""
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    both = {**of_pod, **own}
    user = int(both.get("runAsUser") or 0)
    if both.get("runAsNonRoot") and not user:
        if both.get("runAsUser") is not None:
            raise ConfigError("container's runAsUser breaks non-root policy", object=container["name"])
        user = 65534
    group = int(both.get("runAsGroup") or 0)
    groups = [*(of_pod.get("supplementalGroups") or []), *([of_pod["fsGroup"]] if "fsGroup" in of_pod else [])]
    asked = own.get("capabilities") or {}
    names = set(DEFAULT_CAPABILITIES)
    for name in asked.get("drop") or []:
        names -= set(CAPABILITIES) if name.upper() == "ALL" else {_capability(name)}
    for name in asked.get("add") or []:
        names |= set(CAPABILITIES) if name.upper() == "ALL" else {_capability(name)}
    return Security(
        privileged=bool(own.get("privileged")),
        capabilities=frozenset(names),
        read_only_root=bool(own.get("readOnlyRootFilesystem")),
        user=user,
        group=group,
        groups=tuple(int(number) for number in groups),
    )


def _capability(name: str) -> str:
    plain = name.upper().removeprefix("CAP_")
    if plain not in CAPABILITIES:
        raise ConfigError("no such capability", field="securityContext.capabilities", value=name)
    return plain


def command_of(container: Object, image: Image, environment: Mapping[str, str]) -> list[str]:
    """What is executed: command and args of the pod take the place of the image's (Kubernetes' rules)."""
    own, args = container.get("command") or [], container.get("args") or []
    words = [*own, *args] if own else [*image.entry.entrypoint, *(args or image.entry.command)]
    if not words:
        raise ConfigError("no command specified", object=container["name"])
    return [expand(str(word), environment) for word in words] if own or args else words


async def plan(
    config: NodeConfig,
    rootfs: Rootfs,
    volumes: Volumes,
    pod: Object,
    sandbox: Sandbox,
    container: Object,
    image: Image,
    number: int,
    directory: Path,
) -> LaunchPlan:
    """The plan for run `number` of a container, whose files are in `directory`.

    Raises `ConfigError` and `MountError` with what is wrong in the pod, `ApiError` and `Unreachable`.
    """
    namespace = pod["metadata"]["namespace"]
    hostname = sandboxes.hostname(pod, config.name)
    given = {**rootfs.default_environment(image), "HOSTNAME": hostname, **config.environment}

    async def fetch(resource: Resource, name: str, optional: bool) -> Object | None:
        return await volumes.fetch(namespace, resource, name, optional)

    environment = await variables(pod, container, given, fetch)
    if container.get("tty"):
        environment.setdefault("TERM", "xterm")
    rights = security(pod, container)
    command = command_of(container, image, environment)
    mounts = volumes.mounts(pod, container, rights.privileged, environment)
    directory.mkdir(parents=True, exist_ok=True)
    message = directory / TERMINATION
    message.touch(0o666)
    mounts.append(Mount(message, container.get("terminationMessagePath") or "/dev/termination-log"))
    if rights.user:
        switch = find_program("setpriv")
        if switch is None:
            raise ConfigError("setpriv is not installed", object=container["name"], fix="apt-get install util-linux")
        mounts.append(Mount(switch, SWITCH, read_only=True))
        groups = ["--groups", ",".join(map(str, rights.groups))] if rights.groups else ["--clear-groups"]
        command = [SWITCH, "--reuid", str(rights.user), "--regid", str(rights.group), *groups, "--", *command]
    working_dir = container.get("workingDir") or image.entry.working_dir
    arguments = rootfs.arguments(
        image,
        hostname=hostname,
        pod_files=sandboxes.write_files(config, pod, sandbox),
        mounts=mounts,
        security=rights,
        environment=environment,
        working_dir=working_dir,
    )
    return LaunchPlan(
        name=container["name"],
        number=number,
        image_name=container["image"],
        image=image,
        arguments=tuple(arguments),
        command=tuple(command),
        environment=environment,
        working_dir=working_dir,
        security=rights,
        network_namespace=sandbox.link.path if sandbox.link else sandboxes.host_namespace(config, pod),
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
        fallback_to_logs=container.get("terminationMessagePolicy") == "FallbackToLogsOnError",
    )

"""What a container sees as its root: bubblewrap's arguments, composed from an image, a pod's files and its mounts.

The root itself is a tmpfs that lives as long as the container, which is its writable layer. All of the machine is shown
read-only; other pods' files and processes are not there to be seen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import egresslab
from egresslab.cluster.node.images import Base, Image
from egresslab.cluster.node.kernel import CAPABILITIES

DEFAULT_CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"}
    | {"NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT"}
)
"""What an ordinary container may: Docker's set without making devices, file capabilities and audit records."""

PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

ACCOUNTS = {
    "/etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/sbin/nologin\n"
        "curl_user:x:100:101:curl:/home/curl_user:/sbin/nologin\nnginx:x:101:101:nginx:/nonexistent:/sbin/nologin\n"
        "tcpdump:x:102:102:tcpdump:/nonexistent:/sbin/nologin\n"
        "www-data:x:33:33:www-data:/var/www:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
    ),
    "/etc/group": (
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnginx:x:101:\ntcpdump:x:102:\n"
        "nogroup:x:65534:\nnobody:x:65534:\n"
    ),
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n",
    "/etc/shells": "/bin/sh\n",
}


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the machine at an absolute path in the container; with `devices`, device files work."""

    source: Path
    target: str
    read_only: bool = False
    devices: bool = False


@dataclass(frozen=True, slots=True)
class Security:
    """What a container's processes may; there are no user namespaces, so user 0 is root with `capabilities`."""

    privileged: bool = False
    capabilities: frozenset[str] = DEFAULT_CAPABILITIES
    read_only_root: bool = False
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()


@cache
def applets(busybox: Path) -> tuple[str, ...]:
    """Names that this busybox answers to."""
    answer = subprocess.run([busybox, "--list"], capture_output=True, check=True, timeout=10, text=True)
    return tuple(name for name in answer.stdout.split() if name != "busybox")


class Rootfs:
    """Composes arguments; `files` is a folder of the node for what images and containers need as files."""

    def __init__(self, files: Path, ca_bundle: Path | None) -> None:
        self._files = files
        self._ca_bundle = ca_bundle
        for path, content in ACCOUNTS.items():
            self._file("accounts", PurePosixPath(path), content)

    def arguments(
        self,
        image: Image,
        *,
        hostname: str,
        pod_files: Mapping[str, Path],
        mounts: Sequence[Mount],
        security: Security,
        environment: Mapping[str, str],
        working_dir: str,
    ) -> list[str]:
        """Everything for bwrap but the command; `pod_files` are shown at their paths (/etc/hosts, …), writable."""
        flat: list[str] = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", hostname]
        flat += _capabilities(security)
        for group in (
            self._machine(image),
            self._environment(image),
            _kernel_views(security.privileged),
            self._etc(pod_files),
            _mounts(mounts),
        ):
            for arguments in group:
                flat += arguments
        flat.append("--clearenv")
        for name, value in environment.items():
            flat += ["--setenv", name, value]
        return [*flat, "--chdir", working_dir]

    def default_environment(self, image: Image) -> dict[str, str]:
        """Variables that every container of the image has unless its pod says otherwise."""
        path = PROGRAM_PATH
        if image.entry.python:
            path = f"{sys.prefix}/bin:{path}"
        if image.entry.commands:
            path = f"/opt/bin:{path}"
        certificates = {"SSL_CERT_FILE": CERTIFICATES} if self._ca_bundle else {}
        return {"PATH": path, "HOME": "/root", **certificates, **image.entry.environment}

    def _machine(self, image: Image) -> Iterator[list[str]]:
        """/usr and what belongs to it."""
        for directory in ("/usr", "/etc", "/root", "/home", "/var", "/opt"):
            yield ["--perms", "0755", "--dir", directory]
        yield ["--perms", "1777", "--tmpfs", "/tmp"]
        yield ["--perms", "0755", "--tmpfs", "/run"]
        yield ["--symlink", "../run", "/var/run"]
        yield ["--perms", "1777", "--dir", "/var/tmp"]
        if image.entry.base is Base.HOST:
            yield ["--ro-bind", "/usr", "/usr"]
            yield ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
            yield from _alias_or_bind("/bin", "/sbin")
        else:
            yield ["--perms", "0755", "--dir", "/usr/bin"]
            yield ["--symlink", "usr/bin", "/bin"]
            yield ["--symlink", "usr/bin", "/sbin"]
            yield ["--symlink", "bin", "/usr/sbin"]
            for library in ("/usr/lib", "/usr/lib32", "/usr/lib64"):
                yield ["--ro-bind-try", library, library]
            for name, path in image.programs.items():
                yield ["--ro-bind", str(path), f"/usr/bin/{name}"]
            for name in applets(image.programs["busybox"]):
                if name not in image.programs:
                    yield ["--symlink", "busybox", f"/usr/bin/{name}"]
        yield from _alias_or_bind("/lib", "/lib32", "/lib64")
        yield ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        for path in image.entry.paths:
            yield from _folders(str(path))
            yield ["--ro-bind-try", str(path), str(path)]

    def _environment(self, image: Image) -> Iterator[list[str]]:
        """The image's own files, commands, and Python."""
        if image.entry.python:
            package = Path(egresslab.__file__).parent
            folders = {Path(sys.base_prefix), Path(sys.prefix), package}
            for folder in sorted(folders):
                if not folder.is_relative_to("/usr") or image.entry.base is not Base.HOST:
                    yield ["--ro-bind", str(folder), str(folder)]
        for target, content in image.entry.files.items():
            source = self._file(image.id, PurePosixPath(target), content)
            yield from _folders(str(target))
            yield ["--ro-bind", str(source), str(target)]
        for name, command in image.entry.commands.items():
            words = " ".join(_quote(word) for word in command)
            executable = PurePosixPath("/opt/bin", name)
            source = self._file(image.id, executable, f'#!/bin/sh\nexec {words} "$@"\n', mode=0o755)
            yield from _folders(str(executable))
            yield ["--ro-bind", str(source), str(executable)]

    def _etc(self, pod_files: Mapping[str, Path]) -> Iterator[list[str]]:
        for target in ACCOUNTS:
            yield ["--ro-bind", str(self._files / "accounts" / target.lstrip("/")), target]
        if self._ca_bundle:
            yield from _folders(CERTIFICATES)
            yield ["--ro-bind", str(self._ca_bundle), CERTIFICATES]
            yield ["--symlink", "certs/ca-certificates.crt", "/etc/ssl/cert.pem"]
        for target, source in pod_files.items():
            yield ["--bind", str(source), target]

    def _file(self, owner: str, target: PurePosixPath, content: str, mode: int = 0o644) -> Path:
        path = self._files / owner.replace(":", "-") / str(target).lstrip("/")
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.tmp")
            draft.write_text(content)
            draft.chmod(mode)
            draft.replace(path)
        return path


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _capabilities(security: Security) -> list[str]:
    if security.privileged:
        return []
    names = [name for name in CAPABILITIES if name in security.capabilities]
    return ["--cap-drop", "ALL", *(word for name in names for word in ("--cap-add", f"CAP_{name}"))]


def _alias_or_bind(*paths: str) -> Iterator[list[str]]:
    """Where /lib is a symbolic link into /usr it is one in the container; else the folder is shown."""
    for path in map(Path, paths):
        if path.is_symlink():
            yield ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            yield ["--ro-bind", str(path), str(path)]


def _kernel_views(privileged: bool) -> Iterator[list[str]]:
    """/proc, /dev and /sys; the machine's /sys was replaced by that of the pod's network namespace before."""
    yield ["--proc", "/proc"]
    yield ["--dev", "/dev"]
    yield ["--perms", "1777", "--tmpfs", "/dev/shm"]
    if privileged:
        # bwrap covers parts of /proc; net settings have to be writable here.
        yield ["--dev-bind", "/proc/sys", "/proc/sys"]
        yield ["--dev-bind-try", "/dev/net/tun", "/dev/net/tun"]
        yield ["--dev-bind", "/sys", "/sys"]
        return
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
        yield ["--ro-bind-try", path, path]
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
        if Path(path).exists():
            yield ["--ro-bind", "/dev/null", path]
    yield ["--ro-bind", "/sys", "/sys"]


def _mounts(mounts: Sequence[Mount]) -> Iterator[list[str]]:
    for mount in sorted(mounts, key=lambda mount: len(PurePosixPath(mount.target).parts)):
        if mount.read_only:
            verb = "--ro-bind"
        else:
            verb = "--dev-bind" if mount.devices else "--bind"
        yield from _folders(mount.target)
        yield [verb, str(mount.source), mount.target]


def _folders(target: str) -> Iterator[list[str]]:
    """The folders above a mount, open to every user: those that bubblewrap makes by itself are root's alone."""
    for folder in reversed(PurePosixPath(target).parents):
        if folder != PurePosixPath("/"):
            yield ["--perms", "0755", "--dir", str(folder)]

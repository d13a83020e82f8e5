"""The chained CNI plug-in on its node: its program among the others', its name last in the configuration that counts.

The container runtime takes the first configuration of its directory; ours is in that one and in no other. Files change
by a rename, so a runtime never reads half of one, and no configuration ever names a program that is not there. An agent
that merely stops leaves all in place: pods then wait for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import inotify_simple

from egresslab.agent import conflist
from egresslab.agent.conflist import Configuration
from egresslab.errors import DatapathError

logger = logging.getLogger(__name__)

LOOK_S = 10.0
"""How often to look without being told of a change: a directory may be replaced, a program deleted."""
ENDINGS = frozenset({".conf", ".conflist", ".json"})
"""What runtimes read, in the order of names (libcni, `ConfFiles`)."""
ASIDE = ".egresslab-original"
"""Where a lone plug-in's file waits while a list stands in for it."""
DRAFT = ".egresslab-draft"
"""Drafts are written beside their targets: containerd reads its directory again when a file in it is renamed, and not
when one appears there."""
CHANGES = (
    inotify_simple.flags.CLOSE_WRITE
    | inotify_simple.flags.MOVED_TO
    | inotify_simple.flags.MOVED_FROM
    | inotify_simple.flags.DELETE
)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    configuration: Configuration
    version: tuple[int, int, int]


class HostPlugin:
    """The plug-in of one node, whose CNI directories are `configurations` and `programs`."""

    def __init__(self, configurations: Path, programs: Path) -> None:
        self._configurations = configurations
        self._program = programs / conflist.PLUGIN
        self._said = ""

    async def run(self) -> None:
        """Put it in place and keep it there until cancelled, whatever other plug-ins write."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        with inotify_simple.INotify(nonblocking=True) as watch:
            loop.add_reader(watch.fileno(), changed.set)
            try:
                while True:
                    changed.clear()
                    watch.read(timeout=0)
                    self._configurations.mkdir(parents=True, exist_ok=True)
                    watch.add_watch(self._configurations, CHANGES)
                    self.look()
                    try:
                        async with asyncio.timeout(LOOK_S):
                            await changed.wait()
                    except TimeoutError:
                        continue
            finally:
                loop.remove_reader(watch.fileno())

    def look(self) -> None:
        """Put in place what is not; where that cannot be, say so and leave it at that: the node's pods must start."""
        try:
            self.install()
        except (OSError, DatapathError) as error:
            self._say(logging.ERROR, f"pods of this node start without asking: {error}")

    def install(self) -> None:
        """Program first, then the configuration. Raises OSError, and `DatapathError` on a machine without program."""
        self._install_program()
        files, unread = self._read()
        if not files:
            self._say(logging.INFO, f"no network configuration in {self._configurations} yet")
            return
        first, *others = files
        if conflist.is_list(first.configuration):
            self._write(first, first.path, conflist.with_plugin(first.configuration))
        else:
            # The list stands before the lone file is moved: at no moment is there no configuration.
            written = conflist.with_plugin(conflist.as_list(first.configuration))
            if self._write(first, _list_for(first.path), written):
                first.path.rename(_aside(first.path))
        for other in others if not unread else ():
            if conflist.asks(other.configuration) and not _aside_of(other.path).exists():
                self._write(other, other.path, conflist.without_plugin(other.configuration))
        self._say(logging.INFO, f"pods of this node ask before they start, by {first.path}")

    def remove(self, *, program: bool = True) -> None:
        """Take it out of every configuration, and then, unless somebody may still call it, the program away.

        Raises OSError; may be called again.
        """
        if not self._configurations.is_dir():
            return
        for aside in self._configurations.glob(f"*{ASIDE}"):
            original = aside.with_name(aside.name.removesuffix(ASIDE))
            if original.exists():
                aside.unlink()
            else:
                aside.rename(original)
            _list_for(original).unlink(missing_ok=True)
        for file in self._read()[0]:
            if conflist.asks(file.configuration):
                self._write(file, file.path, conflist.without_plugin(file.configuration))
        for draft in self._configurations.glob(f".*{DRAFT}"):
            draft.unlink(missing_ok=True)
        if program:
            self._program.unlink(missing_ok=True)

    def _install_program(self) -> None:
        source = Path(__file__).parent / "cni" / f"{conflist.PLUGIN}-{platform.machine()}"
        if not source.exists():
            raise DatapathError(
                "the CNI plug-in was not built for this machine",
                object=str(source),
                fix="make -C egresslab/agent/cni, or helm upgrade … --set agent.gate.enabled=false",
            )
        wanted = source.read_bytes()
        if self._program.exists() and self._program.read_bytes() == wanted and os.access(self._program, os.X_OK):
            return
        self._program.parent.mkdir(parents=True, exist_ok=True)
        draft = self._program.with_name(f".{self._program.name}{DRAFT}")
        draft.write_bytes(wanted)
        draft.chmod(0o755)
        draft.replace(self._program)

    def _read(self) -> tuple[list[_File], bool]:
        """Configurations in the runtime's order, and whether there are files that cannot be read just now."""
        found, unread = [], False
        for path in sorted(self._configurations.iterdir(), key=lambda path: path.name):
            if path.suffix not in ENDINGS or not path.is_file():
                continue
            try:
                version = _version(path)
                found.append(_File(path, conflist.parse(path.read_text()), version))
            except (OSError, ValueError) as error:
                unread = True
                logger.warning("%s is passed over: %s", path, error)
        return found, unread

    def _write(self, file: _File, target: Path, configuration: Configuration) -> bool:
        """Put a configuration made from `file` into `target`; False where its owner wrote `file` meanwhile."""
        if target == file.path and configuration == file.configuration:
            return True
        draft = target.with_name(f".{target.name}{DRAFT}")
        draft.write_text(conflist.render(configuration))
        try:
            shutil.copymode(file.path, draft)
            if _version(file.path) != file.version:
                raise FileNotFoundError
        except FileNotFoundError:
            draft.unlink()
            return False
        draft.replace(target)
        return True

    def _say(self, level: int, text: str) -> None:
        """Once, until there is something else to say."""
        if text != self._said:
            self._said = text
            logger.log(level, text)


def take_away(plugin: HostPlugin, runtime: str = "") -> None:
    """Nobody shall ask any more. `runtime` is what the Node says of its container runtime (`containerd://1.7.2`).

    CRI-O ends a pod with the configuration that it began with, also one that is no more: there the program stays. It
    does nothing but say so when a pod ends.
    """
    try:
        plugin.remove(program=not runtime.startswith("cri-o"))
    except OSError as error:
        logger.error("the CNI plug-in egresslab is still on this node: %s", error)


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _list_for(path: Path) -> Path:
    """The list that stands in for a lone plug-in's file, right where that one stood in the order of names."""
    return path.with_name(f"{path.name}.conflist")


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}{ASIDE}")


def _aside_of(listed: Path) -> Path:
    """Where the file is for which a list stands in, if it does."""
    return _aside(listed.with_suffix(""))

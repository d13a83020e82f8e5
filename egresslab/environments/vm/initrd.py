"""What the kernel starts from: an archive with busybox, the drivers of the disk in the order they need, and a script.

Written here rather than by the distribution's tools: those make one for the machine they run on, and take their time.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from egresslab.errors import EnvironmentFailure

TRAILER = "TRAILER!!!"


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive in the format that kernels read ("newc", Documentation/driver-api/early-userspace/buffer-format):
    path -> (mode with file type, content)."""
    result = bytearray()
    for number, (name, (mode, content)) in enumerate([*files.items(), (TRAILER, (0, b""))], 1):
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        result += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        result += b"\0" * (-len(result) % 4) + content
        result += b"\0" * (-len(result) % 4)
    return bytes(result)


def load_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """Paths of modules, each after those it needs, from the text of modules.dep (depmod(8)).

    Raises `EnvironmentFailure` for a module that the kernel does not have; whether it is built in, modules.dep cannot
    tell.
    """
    needs = {}
    for line in dependencies.splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}
    for name in wanted:
        if name not in by_name:
            raise EnvironmentFailure(
                "this kernel has no such module", object="environment vm", field="disk_modules", value=name
            )
        path = by_name[name]
        # modules.dep lists what a module needs from the nearest to the farthest.
        order |= dict.fromkeys([*reversed(needs[path]), path])
    return list(order)


def make_initrd(root: Path, release: str, modules: Iterable[str], script: str) -> bytes:
    """The archive for a kernel whose modules are below `root`, packed."""
    base = root / "lib" / "modules" / release
    order = load_order((base / "modules.dep").read_text(), modules)
    folder, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    files = dict.fromkeys(("bin", "dev", "system", "modules"), (folder, b""))
    files["bin/busybox"] = (program, (root / "bin" / "busybox").read_bytes())
    files["init"] = (program, script.encode())
    for path in order:
        files[f"modules/{Path(path).name}"] = (program, (base / path).read_bytes())
    files["modules/order"] = (program, "".join(f"{Path(path).name}\n" for path in order).encode())
    return gzip.compress(archive(files), compresslevel=1)

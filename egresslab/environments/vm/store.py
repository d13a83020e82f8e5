"""Where root file systems and kernels are kept between labs: the user's cache folder, by the checksum of their recipe.

A folder appears under its name only when it is complete; what a killed build left is thrown away by the next one. The
folder may be deleted at any time when no lab of machines is up: the next `up` makes it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from egresslab.environments.netns.locks import locked
from egresslab.errors import EnvironmentFailure

PATIENCE_S = 900.0
"""Somebody else may just be making what we want."""
DRAFT = "draft-"
NAMED = "EGRESSLAB_VM_SYSTEM"
"""Variable that names a folder with a system that was made elsewhere: on another machine, or by other means."""


@dataclass(frozen=True, slots=True)
class SystemImage:
    """What machines of one recipe boot from."""

    folder: Path

    @property
    def disk(self) -> Path:
        """Root file system (ext4, raw, sparse); nobody writes to it."""
        return self.folder / "system.ext4"

    @property
    def kernel(self) -> Path:
        """What QEMU's -kernel takes."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The drivers of the disk."""
        return self.folder / "initrd.gz"


def cache_root() -> Path:
    """The folder of the XDG base directory specification, for whoever called sudo -E as for everybody."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "egresslab" / "vm"


class Store:
    """The cache folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()

    def find(self, checksum: str) -> SystemImage | None:
        """What was made from a recipe, if it was; or what the user names, whatever it was made from.

        Raises `EnvironmentFailure` for a folder that is named and lacks a file.
        """
        if named := os.environ.get(NAMED, ""):
            image = SystemImage(Path(named).absolute())
            missing = [path.name for path in (image.disk, image.kernel, image.initrd) if not path.is_file()]
            if missing:
                raise EnvironmentFailure(
                    f"has no {', '.join(missing)}",
                    object=NAMED,
                    value=named,
                    fix=f"name a folder like those in {cache_root()}, or unset {NAMED}",
                )
            return image
        folder = self.root / checksum
        return SystemImage(folder) if folder.is_dir() else None

    @contextmanager
    def draft(self, name: str) -> Iterator[Path | None]:
        """A folder to make `name` in, which gets that name when the block ends well; None when it is there already.

        One at a time: whoever wants the same waits. Raises `Busy` when that takes too long.
        """
        with locked(self.root, PATIENCE_S, "another command that makes a file system for machines"):
            for stale in self.root.glob(f"{DRAFT}*"):
                shutil.rmtree(stale)
            if (self.root / name).exists():
                yield None
                return
            folder = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.root))
            try:
                yield folder
                folder.chmod(0o755)
                folder.rename(self.root / name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def outdated(self, checksum: str) -> list[Path]:
        """Folders of other recipes, which only take up space."""
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path for path in found if path.is_dir() and path.name != checksum and len(path.name) == 16)

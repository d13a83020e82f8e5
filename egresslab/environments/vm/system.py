"""Makes a root file system with its kernel from a recipe: debootstrap, the kernel's package unpacked, our dependencies,
the start-up scripts. It takes minutes, once.

Everything happens in one folder; commands run in it by chroot. Nothing of it is mounted or started on this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from egresslab.environments.base import Progress
from egresslab.environments.vm.initrd import make_initrd
from egresslab.environments.vm.recipe import Recipe, mirror
from egresslab.environments.vm.store import Store, SystemImage
from egresslab.errors import EnvironmentFailure

DEADLINE_S = 1800.0
PREFIX = Path("/opt/egresslab")
"""Where the machine's virtual environment is."""
PROJECT = PREFIX / "project"
SETTINGS = Path("/etc/egresslab")
GLIBC = {"bookworm": 36, "trixie": 41}
NEEDED_MIB = 3000
"""While it is made, in the cache folder."""


def provide(recipe: Recipe, store: Store, disk_mib: int, progress: Progress) -> SystemImage:
    """The system of a recipe, made now if it was not before; raises `EnvironmentFailure` with the end of what the
    command that failed has said."""
    found = store.find(recipe.checksum)
    if found is not None:
        return found
    progress.step("root file system of the machines (once; takes some minutes)")
    with store.draft(recipe.checksum) as draft:
        if draft is not None:
            _make(recipe, draft, disk_mib, progress)
            for stale in store.outdated(recipe.checksum):
                progress.note(f"no longer needed: {stale}")
    return SystemImage(store.root / recipe.checksum)


def _make(recipe: Recipe, draft: Path, disk_mib: int, progress: Progress) -> None:
    root, image = draft / "root", SystemImage(draft)
    log = draft / "log"
    system = recipe.system
    progress.note(f"Debian {system.suite} from {mirror(system)}")
    names = ",".join(system.packages)
    debootstrap = ["debootstrap", "--variant=minbase", f"--arch={recipe.platform.debian}", f"--include={names}"]
    _run([*debootstrap, system.suite, str(root), mirror(system)], log)
    progress.note(f"kernel {recipe.kernel}")
    release = _kernel(recipe, root, image, log)
    progress.note("Python packages")
    _python(recipe, root, log)
    _scripts(recipe, root)
    image.initrd.write_bytes(make_initrd(root, release, system.disk_modules, recipe.scripts["initrd"]))
    progress.note("file system")
    for path in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / path, ignore_errors=True)
    make_disk(root, image.disk, disk_mib, log, journal_mib=8)
    shutil.rmtree(root)
    log.unlink()


def _kernel(recipe: Recipe, root: Path, image: SystemImage, log: Path) -> str:
    """Unpack the newest kernel of the recipe's package, without its scripts, which would want a boot loader."""
    where = root / "var" / "cache" / "kernel"
    where.mkdir()
    depends = _inside(root, ["apt-cache", "depends", "--important", recipe.kernel], log)
    package = next(
        (line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line), recipe.kernel
    )
    _inside(
        root, ["sh", "-c", f"cd /var/cache/kernel && apt-get -qq -o APT::Sandbox::User=root download {package}"], log
    )
    for archive in list(where.glob("*.deb")):
        # Not into the root itself: the archive's folder /lib would take the place of the link into /usr.
        _inside(root, ["dpkg-deb", "-x", f"/var/cache/kernel/{archive.name}", "/var/cache/kernel/unpacked"], log)
    unpacked = where / "unpacked"
    (release,) = (path.name.removeprefix("vmlinuz-") for path in (unpacked / "boot").glob("vmlinuz-*"))
    shutil.move(unpacked / "boot" / f"vmlinuz-{release}", image.kernel)
    (root / "usr" / "lib" / "modules").mkdir(exist_ok=True)
    shutil.move(unpacked / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release)
    shutil.rmtree(where)
    _inside(root, ["depmod", release], log)
    return release


def _python(recipe: Recipe, root: Path, log: Path) -> None:
    """A virtual environment with our dependencies, chosen for the machine's Python by this machine's pip."""
    _inside(root, ["python3", "-m", "venv", "--without-pip", str(PREFIX)], log)
    packages = root / PREFIX.relative_to("/") / "lib" / f"python{recipe.system.python}" / "site-packages"
    newest = GLIBC.get(recipe.system.suite, 28)
    tags = [f"manylinux_2_{minor}_{recipe.platform.wheels}" for minor in range(newest, 4, -1)]
    tags += [f"{old}_{recipe.platform.wheels}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"]
    pip += ["--disable-pip-version-check", "--implementation=cp", f"--python-version={recipe.system.python}"]
    pip += [f"--abi={abi}" for abi in (f"cp{recipe.system.python.replace('.', '')}", "abi3", "none")]
    pip += [f"--platform={tag}" for tag in tags]
    _run([*pip, f"--target={packages}", *recipe.pins], log)
    (packages / "project.pth").write_text(f"{PROJECT}\n")
    (root / PROJECT.relative_to("/")).mkdir()
    everything = [str(PREFIX / "lib"), f"/usr/lib/python{recipe.system.python}"]
    compile_all = ["-m", "compileall", "-q", "-j0", "--invalidation-mode=unchecked-hash"]
    _inside(root, [str(PREFIX / "bin" / "python"), *compile_all, *everything], log)


def _scripts(recipe: Recipe, root: Path) -> None:
    settings = root / SETTINGS.relative_to("/")
    settings.mkdir()
    (settings / "modules").write_text(" ".join(recipe.system.modules) + "\n")
    (root / "etc" / "inittab").write_text(recipe.scripts["inittab"])
    (root / "sbin" / "init").symlink_to("../bin/busybox")
    (root / "etc" / "resolv.conf").write_text("")


def make_disk(root: Path, disk: Path, size_mib: int, log: Path, *, journal_mib: int = 0) -> None:
    """An ext4 file system in a sparse file with everything below a folder; without a journal it is for reading."""
    journal = ["-J", f"size={journal_mib}"] if journal_mib else ["-O", "^has_journal"]
    lazy = ["-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"]
    _run(["mkfs.ext4", "-q", "-F", "-m", "0", *journal, *lazy, "-d", str(root), str(disk), f"{size_mib}M"], log)


def _inside(root: Path, command: Sequence[str], log: Path) -> str:
    return _run(["chroot", str(root), *command], log)


def _run(command: Sequence[str], log: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", "PYTHONPATH": ""}
    environment["PATH"] = f"{environment.get('PATH', os.defpath)}:/usr/sbin:/usr/bin:/sbin:/bin"
    shown = " ".join(command[:6])
    try:
        with log.open("ab") as errors:
            answer = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment,
                timeout=DEADLINE_S, check=True,
            )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = "\n".join(f"    {line}" for line in _tail(log, error.output))
        raise EnvironmentFailure(
            f"failed with status {error.returncode}:\n{said}", object=shown, fix="mend that and run the command again"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailure(f"did not end well: {error}", object=shown, fix="egresslab doctor") from error
    return answer.stdout.decode(errors="replace")


def _tail(log: Path, output: bytes, lines: int = 12) -> list[str]:
    text = log.read_text(errors="replace") + output.decode(errors="replace")
    return text.splitlines()[-lines:]

"""The command line of a machine. Pure: what to run comes out, nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from egresslab.environments.vm.machine import card
from egresslab.environments.vm.recipe import Platform
from egresslab.environments.vm.store import SystemImage

TRANSLATION_CACHE_MIB = 128
"""QEMU's default is a gibibyte for each machine."""
KERNEL_WORDS = ("quiet", "panic=1", "mitigations=off", "random.trust_cpu=on")
"""A kernel that panics starts again after a second; nobody in a machine is to be kept from anybody else in it."""
EMULATION_WORDS = ("no_timer_check", "clocksource=acpi_pm", "tsc=unstable", "hpet=disable")
"""On a busy host an emulated clock is late, not broken. How fast the processor's own counter runs cannot be measured
there, and a wrong guess makes seconds of another length; this other timer is slower to read, and right."""


class Acceleration(StrEnum):
    """How a machine's processor is made."""

    KVM = "kvm"
    EMULATION = "tcg"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk by its name, its file and the file's format."""

    name: str
    file: Path
    format: str = "raw"
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """A network card: number of its network, the port of the fabric that it is plugged into, its MAC."""

    network: str
    port: str
    mac: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """What all machines of a lab have in common."""

    platform: Platform
    acceleration: Acceleration
    memory_mib: int
    cores: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where a machine's ends outside are: its console's log, QEMU's monitor, the agent inside."""

    console: Path
    monitor: Path
    agent: Path


def command(
    name: str,
    hardware: Hardware,
    system: SystemImage,
    disks: tuple[Disk, ...],
    cards: tuple[Card, ...] = (),
    wiring: Wiring | None = None,
) -> list[str]:
    """Everything for one machine; the first disk is its root, and without any its kernel only says hello.

    The process belongs into the fabric's namespace, where the cards' ports are. Without `wiring` the console is the
    standard output.
    """
    platform, kvm = hardware.platform, hardware.acceleration is Acceleration.KVM
    words = " ".join([f"console={platform.console}", *KERNEL_WORDS, *(() if kvm else EMULATION_WORDS)])
    line = [platform.qemu, "-name", name, "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-machine", platform.board, "-cpu", "host" if kvm else platform.processor]
    line += ["-accel", "kvm" if kvm else f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"]
    line += ["-m", str(hardware.memory_mib), "-smp", str(hardware.cores)]
    line += ["-kernel", str(system.kernel), "-initrd", str(system.initrd), "-append", words]
    for disk in disks:
        # What a machine has flushed survives its death in this machine's page cache, and the lab does not outlive that.
        options = f"file={disk.file},format={disk.format},if=none,id={disk.name},cache=unsafe"
        line += ["-drive", options + (",readonly=on" if disk.read_only else "")]
        line += ["-device", f"virtio-blk-pci,drive={disk.name}"]
    for plug in cards:
        line += ["-netdev", f"tap,id=net{plug.network},ifname={plug.port},script=no,downscript=no"]
        line += ["-device", f"virtio-net-pci,netdev=net{plug.network},id={card(plug.network)},mac={plug.mac},romfile="]
    line += ["-device", "virtio-rng-pci"]
    if wiring is None:
        return [*line, "-no-reboot", "-serial", "stdio"]
    line += ["-chardev", f"file,id=console,path={wiring.console},append=on", "-serial", "chardev:console"]
    line += ["-qmp", f"unix:{wiring.monitor},server=on,wait=off", "-device", "virtio-serial-pci"]
    line += ["-chardev", f"socket,id=agent,path={wiring.agent},server=on,wait=off"]
    return [*line, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
